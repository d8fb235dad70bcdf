"""Tests of `hold_out`: which training images a run validates on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.runtime.run_folder import RunFolder
from gtacli.runtime.state_file import write_state_file

Make = Callable[..., FinetuneConfig]


def keys(records: Any) -> list[str]:
    return [record.key for record in records]


def grow(data: Path, name: str, count: int) -> None:
    """Let a class of the training split have `count` images."""
    for i in range(6, count):
        shutil.copy(data / "train" / name / "0.png", data / "train" / name / f"{i}.png")


def test_small_classes_give_nothing_by_default(
    config: Make, recorder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    summary = finetune(config(hold_out="auto", epochs=2), recorder)
    assert (summary["n_train"], summary["n_val"]) == (18, 0)
    assert (summary["best_epoch"], summary["val_top1"]) == (1, None)
    assert [row["val_top1"] for row in recorder.rows] == [None, None]
    assert [row["val_loss"] for row in recorder.rows] == [None, None]
    assert "no image is held out: all 18 are trained on, the last epoch is saved" in caplog.messages
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert split["validation"] == "none"
    assert split["hold_out"] == {"percent": 20, "min_images": 10}


def test_drift_is_measured_on_what_a_fifth_would_hold_out(config: Make, recorder: Any) -> None:
    fifth, none = prepare(config()), prepare(config(hold_out="auto"))
    assert keys(none.observed) == keys(fifth.split.val) == keys(fifth.observed)
    assert set(none.observed) < set(none.records)
    summary = finetune(config(hold_out="none", epochs=1), recorder)
    assert summary["attention_drift"] > 0


def test_larger_classes_give_a_fifth(config: Make, tiny_data: Path) -> None:
    grow(tiny_data, "red", 10)
    grow(tiny_data, "blue", 9)
    auto, fifth = prepare(config(hold_out="auto")), prepare(config())
    assert len(auto.split.val) == 2
    assert keys(auto.split.val) == [k for k in keys(fifth.split.val) if "red" in k]
    kept = prepare(config(hold_out="auto", shots=9))
    assert not kept.split.val  # the images that are kept count


def test_percentage(config: Make) -> None:
    assert len(prepare(config(hold_out=50.0)).split.val) == 9
    assert len(prepare(config(hold_out=1.0)).split.val) == 3  # at least one


@pytest.mark.parametrize("option", [{"lam": "auto", "epochs": 5}, {"patience": 2}])
def test_options_that_need_held_out_images(
    option: dict[str, Any], config: Make, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    summary = finetune(config(hold_out="auto", **option), recorder)
    assert (summary["n_train"], summary["n_val"]) == (15, 3)
    name = "lam=auto" if "lam" in option else "patience"
    line = f"`{name}` decides by held-out images: 3 of 18 are held out"
    assert caplog.messages.count(line) == 1
    with pytest.raises(UsageError, match=f"hold_out: none: `{name}` decides by held-out images"):
        finetune(config(hold_out="none", overwrite=True, **option), recorder)


def test_refit_without_held_out_images(
    config: Make, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    summary = finetune(config(hold_out="auto", refit=True, epochs=1), recorder)
    assert len(recorder.rows) == 1
    assert summary["n_train"] == 18
    assert "`refit` has no effect: no image is held out" in caplog.messages


def test_own_validation_split_is_used(
    config: Make, recorder: Any, tiny_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_data / "test", tiny_data / "val")
    for hold_out in ("none", 10.0, "auto"):
        job = prepare(config(hold_out=hold_out, patience=1))
        assert (len(job.split.train), len(job.split.val)) == (18, 12)
    finetune(config(hold_out=10.0, epochs=1), recorder)
    assert "`hold_out` has no effect: the dataset has its own validation split" in caplog.text


def test_run_from_before_the_option_is_resumed_with_its_split(
    config: Make, recorder: Any, interrupted: Any, tmp_path: Path
) -> None:
    whole = finetune(config(out=tmp_path / "whole"), recorder)
    finetune(config(out=tmp_path / "old", epochs=2), recorder)
    record = tmp_path / "old" / "run.json"
    content = json.loads(record.read_text())
    del content["config"]["hold_out"]
    content["config"]["epochs"] = 3
    record.write_text(json.dumps(content))
    state = RunFolder(tmp_path / "old").read_state()
    del state["origin"]  # as before there was any
    write_state_file(tmp_path / "old" / "state.pt", state)
    again = finetune(FinetuneConfig(resume=tmp_path / "old"), recorder)
    assert (again["n_train"], again["n_val"]) == (whole["n_train"], whole["n_val"]) == (15, 3)
    assert again["epochs_run"] == 3


@pytest.mark.parametrize("value", [0, 51, "half", -1])
def test_invalid_values(value: Any, config: Make) -> None:
    with pytest.raises(ValueError, match="hold_out"):
        config(hold_out=value)
