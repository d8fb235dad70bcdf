"""Tests of early stopping."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.finetuning.evaluation import Evaluation, Evaluator
from gtacli.finetuning.run import finetune
from gtacli.training.loop import out_of_patience

Make = Callable[..., FinetuneConfig]
N_TEST = 12
SCORES = [0.2, 0.5, 0.4, 0.5, 0.3, 0.9, 0.9, 0.9]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let validation return SCORES; of three images the standard error of 0.5 is 0.19."""
    scores = iter([*SCORES, 0.0, *SCORES])
    original = Evaluator.__call__

    def call(self: Evaluator, max_batches: int | None = None) -> Evaluation:
        found = original(self, max_batches)
        is_test = sum(count for _, count in found.by_class) == N_TEST
        return found if is_test else replace(found, top1=next(scores))

    monkeypatch.setattr(Evaluator, "__call__", call)


@given(st.lists(st.integers(0, 4), min_size=1), st.integers(1, 5))
def test_patience_counts_from_the_best_epoch(scores: list[int], patience: int) -> None:
    best, waited = -1, 0
    for score in scores:
        better = score > best
        best, waited = max(best, score), 0 if better else waited + 1
    rows = [{"val_top1": score} for score in scores]
    assert out_of_patience(rows, patience) == (waited >= patience)
    assert not out_of_patience(rows, None)


@pytest.mark.parametrize(("patience", "epochs_run", "best"), [(1, 3, 2), (3, 5, 3), (4, 8, 7)])
def test_stop_is_logged(
    patience: int,
    epochs_run: int,
    best: int,
    config: Make,
    recorder: Any,
    scored: None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    summary = finetune(config(patience=patience, epochs=8), recorder)
    assert summary["epochs"] == 8
    assert summary["epochs_run"] == epochs_run == len(recorder.rows)
    assert summary["best_epoch"] == best
    assert summary["stopped_early"] == (epochs_run < 8)
    line = f"stopped early: no better val_top1 for {patience} epochs"
    assert (line in caplog.messages) == summary["stopped_early"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


def test_schedule_has_all_epochs(config: Make, recorder: Any, scored: None, tmp_path: Path) -> None:
    finetune(config(patience=1, epochs=8), recorder)
    rates = [row["lr"] for row in recorder.rows]
    finetune(config(epochs=8, out=tmp_path / "whole"), recorder)
    assert rates == [row["lr"] for row in recorder.rows[3:6]]


def test_resume_after_early_stop_trains_no_further(
    config: Make, recorder: Any, scored: None, tmp_path: Path
) -> None:
    before = finetune(config(patience=1, epochs=8), recorder)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    again = finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)
    assert len(recorder.rows) == 3
    assert again["test_top1"] == before["test_top1"]
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert all(weights[k].equal(after[k]) for k in weights)


def test_refit_ignores_patience(config: Make, recorder: Any, scored: None) -> None:
    summary = finetune(config(patience=2, epochs=8, refit=True), recorder)
    # Epochs 0 to 3; the last one is among the best, so the refit trains for four, too.
    assert summary["epochs_run"] == 4
    assert [r["epoch"] for r in recorder.rows if r.get("phase")] == [0, 1, 2, 3]


def test_refit_ends_before_a_collapse(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.3, 0.9, 0.8, 0.1, *[0.0] * 4])
    original = Evaluator.__call__

    def call(self: Evaluator, max_batches: int | None = None) -> Evaluation:
        found = original(self, max_batches)
        is_test = sum(count for _, count in found.by_class) == N_TEST
        return found if is_test else replace(found, top1=next(scores))

    monkeypatch.setattr(Evaluator, "__call__", call)
    summary = finetune(config(epochs=4, refit=True), recorder)
    assert [r["epoch"] for r in recorder.rows if r.get("phase")] == [0, 1, 2]
    assert (summary["best_epoch"], summary["val_top1"]) == (2, 0.8)


def test_patience_needs_validation_images(config: Make, recorder: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"patience: needs validation images, but none"):
        finetune(config(patience=2, shots=2), recorder)
    assert not (tmp_path / "run").exists()
