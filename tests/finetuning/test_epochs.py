"""Tests of `epochs=auto`: the length of the schedule by the number of training images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.finetuning import epochs as module
from gtacli.finetuning.epochs import MAX_EPOCHS, MIN_EPOCHS, MIN_STEPS, auto_epochs
from gtacli.finetuning.run import finetune, with_demo
from gtacli.training.loop import Plan

Make = Callable[..., FinetuneConfig]


@pytest.mark.parametrize(
    ("images", "batch_size", "accumulate", "epochs"),
    [
        (250, 32, 1, 63),  # 8 steps an epoch
        (250, 32, 2, 100),  # 4 steps: 125 epochs would be needed
        (429, 32, 1, 36),  # 14 steps
        (1, 32, 1, 100),
        (1600, 32, 1, 10),  # 50 steps
        (1_000_000, 32, 1, 10),
    ],
)
def test_number_of_epochs(images: int, batch_size: int, accumulate: int, epochs: int) -> None:
    assert auto_epochs(images, batch_size, accumulate) == epochs


@given(st.integers(1, 10**6), st.integers(1, 512), st.integers(1, 8))
def test_fewest_epochs_with_enough_steps(images: int, batch_size: int, accumulate: int) -> None:
    epochs = auto_epochs(images, batch_size, accumulate)
    steps = Plan(1, images, batch_size, accumulate).updates
    assert MIN_EPOCHS <= epochs <= MAX_EPOCHS
    assert epochs * steps >= MIN_STEPS or epochs == MAX_EPOCHS
    assert (epochs - 1) * steps < MIN_STEPS or epochs == MIN_EPOCHS


def test_run_and_resume(
    config: Make, recorder: Any, interrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_STEPS", 10)
    monkeypatch.setattr(module, "MIN_EPOCHS", 2)
    whole = finetune(config(epochs="auto", refit=True, out=tmp_path / "whole"), recorder)
    assert whole["epochs"] == whole["epochs_run"] == 3  # 15 images in 4 batches
    assert sum("phase" in row for row in recorder.rows) == 3  # also of 18 images in 5 batches
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["config"]["epochs"] == "auto"
    assert record["resolved"]["epochs"] == 3
    assert record["resolved"]["strengths"].keys() <= {"gta"}

    def other_rule(*_: int) -> int:
        monkeypatch.setattr(module, "MIN_STEPS", 1000)
        return 0

    recorder.at_epoch = lambda row: other_rule() if row["epoch"] == 0 else None
    again = interrupted(config(epochs="auto", out=tmp_path / "cut"))
    assert again["epochs"] == again["epochs_run"] == 3


def test_search_gets_the_number(config: Make, recorder: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lam: auto: 4 epochs are too few"):
        finetune(config(epochs=4, lam="auto"), recorder)
    summary = finetune(config(epochs="auto", lam="auto", batch_size=15), recorder, dry_run=True)
    assert summary["epochs"] == 100


@pytest.mark.parametrize("value", [0, "many", 1.5])
def test_invalid_values(value: Any, config: Make) -> None:
    with pytest.raises(ValueError, match="epochs"):
        config(epochs=value)


def test_the_demo_has_a_model_of_its_own() -> None:
    filled = with_demo(FinetuneConfig(data="demo"))
    assert (filled.model, filled.lr) == ("demo", 5e-4)
    assert with_demo(FinetuneConfig(data="demo", lr=1.0)).lr == 1.0
    with pytest.raises(UsageError, match="model: is required"):
        with_demo(FinetuneConfig(data="photos"))
