"""Tests of states that hold other things than a run writes: one clear line, whatever they are."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import GtaError
from gtacli.finetuning.run import finetune
from gtacli.finetuning.search import SEARCH_FILE, read_search
from gtacli.runtime.run_folder import RunFolder
from gtacli.runtime.state_file import read_state_file, write_state_file

Make = Callable[..., FinetuneConfig]
State = dict[str, Any]


def drop(name: str) -> Callable[[State], object]:
    return lambda state: state.pop(name)


def put(name: str, value: Any) -> Callable[[State], object]:
    return lambda state: state.update({name: value})


def progress(**changes: Any) -> Callable[[State], object]:
    return lambda state: state["progress"].update(changes)


@pytest.fixture
def killed(config: Make, recorder: Any, tmp_path: Path) -> Path:
    """A run that ended after its first epoch."""

    def kill(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    recorder.at_epoch = kill
    with pytest.raises(KeyboardInterrupt):
        finetune(config(out=tmp_path / "killed"), recorder)
    recorder.at_epoch = lambda row: None
    (tmp_path / "killed" / "state-previous.pt").unlink(missing_ok=True)
    return tmp_path / "killed"


CHANGES: list[tuple[Callable[[State], object], str]] = [
    *((drop(n), f"it has no '{n}'") for n in ("progress", "rows", "optimizer", "rng", "totals")),
    (put("rows", 7), "it holds values of other types"),
    (put("rows", "[1"), "it is not JSON"),
    (put("rows", "[" * 10_000 + "]" * 10_000), "nested"),
    (put("rows", json.dumps([{"epoch": "one"}])), "'rows.epoch' must be a whole number"),
    (put("rows", json.dumps([7])), "'rows' "),
    (put("rows", json.dumps([{"epoch": 0}])), "'rows.images_per_second' is required"),
    *(
        (put("rows", json.dumps([{"epoch": 0, "images_per_second": 1.0, **row}])), f"'rows.{said}'")
        for row, said in (
            ({"images_per_second": []}, "images_per_second"),
            ({"val_top1": [0.5]}, "val_top1"),
            ({"val_top1": "x"}, "val_top1"),
            ({"attention": 3}, "attention"),
            ({"attention": {"inside": []}}, "attention.inside"),
            ({"attention": {"inside": None}}, "attention.area"),
        )
    ),
    (progress(chosen={}), "'progress.chosen.best_epoch' is required"),
    (progress(chosen={"best_epoch": "x", "val_top1": None}), "'progress.chosen.best_epoch'"),
    (progress(best_score=[]), "'progress.best_score'"),
    (put("rows", "{}"), "its `rows` are no metrics"),
    (put("progress", [1, 2]), "'progress'"),
    (progress(epoch=-1), "'progress.epoch'"),
    (progress(epoch="2"), "'progress.epoch'"),
    (progress(phase="test"), "'progress.phase'"),
    (progress(seconds=math.nan), "'progress.seconds'"),
    (progress(extra=1), "unknown key 'extra'"),
    (put("optimizer", {}), "it has no"),
    (put("optimizer", torch.zeros(3)), "it holds values of other types"),
    (put("model", {"head.weight": torch.zeros(1)}), "it holds values of other types or shapes"),
    (put("origin", [1]), "it holds values of other types"),
    (put("origin", torch.zeros(2)), "it holds values of other types"),
    (put("origin", "[1"), "it is not JSON"),
    (put("origin", "[1]"), "'origin'"),
    (put("origin", '{"config": 3, "split": "x"}'), "'origin.config'"),
    (put("origin", '{"config": {}}'), "'origin.split' is required"),
    (put("rng", [{"python": None}]), "it h"),
    (put("totals", {"loss": "much"}), "it holds values of other types"),
]


def test_state_that_does_not_fit_is_one_clear_line(
    killed: Path, recorder: Any, tmp_path: Path
) -> None:
    for number, (change, said) in enumerate(CHANGES):
        run = tmp_path / f"strange-{number}"
        shutil.copytree(killed, run)
        state = read_state_file(run / "state.pt")
        change(state)
        write_state_file(run / "state.pt", state)
        with pytest.raises(GtaError) as caught:
            finetune(FinetuneConfig(resume=run), recorder)
        text = str(caught.value)
        assert said in text, (number, text)
        assert "\n" not in text
        assert "Error" not in text
        assert caught.value.option == "resume"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("config", 3),
        ("config", None),
        ("data", "demo"),
        ("data.fingerprint", {}),
        ("data.content", [1]),
        ("model", []),
        ("model.fingerprint", None),
        ("resolved", 3),
        ("resolved.epochs", "many"),
    ],
)
def test_strange_record_is_one_clear_line(
    path: str, value: object, killed: Path, recorder: Any
) -> None:
    record = json.loads((killed / "run.json").read_text())
    *outer, last = path.split(".")
    (record[outer[0]] if outer else record)[last] = value
    (killed / "run.json").write_text(json.dumps(record))
    with pytest.raises(GtaError, match=rf"run\.json: '{path}") as caught:
        finetune(FinetuneConfig(resume=killed), recorder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"chosen": "x"}, {"chosen": None}, {"chosen": -1.0}, {"scores": 3}, {"epochs": []}]
)
def test_strange_search_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    plain = {"chosen": 0.1, "scores": {"0.1": [0.5, None]}, "epochs": 3, "seconds": 1.5}
    run = RunFolder(tmp_path)
    run.write_json(SEARCH_FILE, plain)
    assert read_search(run) == {**plain, "why": None}  # of a run of an earlier version
    run.write_json(SEARCH_FILE, {**plain, **change})
    with pytest.raises(GtaError, match=r"search\.json is damaged"):
        read_search(run)
