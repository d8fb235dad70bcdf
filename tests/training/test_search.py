"""`--lam auto`: the halving itself on made-up losses, and whole runs on the tiny set."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gtacli.training.search as module
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import Interrupted, RunError, UsageError
from gtacli.training.finetune import finetune
from gtacli.training.runs import RunFolder
from gtacli.training.search import choices, search

Make = Callable[..., FinetuneConfig]
LAMS = (0.0, 0.01, 0.1, 1.0)


def halve(
    losses: dict[float, list[float]], epochs: int = 8
) -> tuple[module.Search, list[tuple[float, int]]]:
    """A search whose candidates have these losses, epoch by epoch; and what it trained."""
    calls: list[tuple[float, int]] = []

    def train(lam: float, folder: RunFolder, stop: int) -> list[dict[str, Any]]:
        calls.append((lam, stop))
        rows = [{"epoch": i, "val_loss": loss} for i, loss in enumerate(losses[lam][:stop])]
        if any(math.isnan(row["val_loss"]) for row in rows):
            raise RunError("the loss is not finite")
        return rows

    return search(LAMS, epochs, RunFolder(Path("nowhere"), dry=True), train), calls


def test_the_better_half_goes_on() -> None:
    losses = {0.0: [3, 3, 9, 9], 0.01: [4, 2, 1, 1], 0.1: [2, 2, 3, 1], 1.0: [9, 9, 0, 0]}
    found, calls = halve(losses)  # means of epochs 1-2: 3, 3, 2, 9; a tie goes to the smaller
    assert calls == [*((lam, 2) for lam in LAMS), (0.0, 4), (0.1, 4)]
    assert found.chosen == 0.1
    assert found.scores == {"0": [3, 9], "0.01": [3], "0.1": [2, 2], "1": [9]}
    # Together with the four epochs that the winner has yet to train: twice a run.
    assert found.epochs + 4 == 16


def test_a_candidate_that_fails_is_out() -> None:
    nan = math.nan
    losses = {0.0: [nan] * 4, 0.01: [4, 4, 4, 4], 0.1: [5, 5, 2, 2], 1.0: [6, 6, 1, 1]}
    found, _ = halve(losses)
    assert found.chosen == 0.1
    assert found.scores["0"] == [None]
    with pytest.raises(RunError, match="with every strength"):
        halve({lam: [nan] * 4 for lam in LAMS})


def test_it_says_plainly_that_nothing_won() -> None:
    found, _ = halve({0.0: [1, 1, 1, 1], 0.01: [2] * 4, 0.1: [2] * 4, 1.0: [2] * 4})
    assert "0 won" in found.report(8)
    assert "8 epochs more than a run of 8" in found.report(8)


def test_the_choices_lie_around_the_default() -> None:
    assert choices("gta") == (0.0, 0.01, 0.1, 1.0)
    assert choices("bss") == (0.0, 0.0001, 0.001, 0.01)


def test_the_winner_is_the_run_it_would_have_been(
    config: Make, recorder: Any, tmp_path: Path
) -> None:
    run = tmp_path / "auto"
    summary = finetune(config(lam="auto", epochs=5, out=run), recorder)
    assert summary["lam"] in LAMS
    assert json.loads((run / "search.json").read_text())["chosen"] == summary["lam"]
    assert not (run / "search").exists()
    finetune(config(lam=summary["lam"], epochs=5, out=tmp_path / "given"), recorder)
    auto, given = (load_file(tmp_path / n / "model.safetensors") for n in ("auto", "given"))
    assert all(torch.equal(auto[k], given[k]) for k in given)
    rows = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("auto", "given")]
    losses = [[json.loads(row)["val_loss"] for row in lines] for lines in rows]
    assert losses[0] == losses[1]
    # 2 of 5 epochs for four candidates, 1 more for two: what the scores were made of.
    assert summary["lam_search"]["epochs"] == 10
    score = summary["lam_search"]["scores"][f"{summary['lam']:g}"]
    assert score == pytest.approx([sum(losses[0][:2]) / 2, losses[0][2]])


@pytest.mark.parametrize("at", [3, 9])
def test_killed_while_choosing_it_goes_on(
    at: int, config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finetune(config(lam="auto", epochs=5, out=tmp_path / "whole"), recorder)

    class Killed(Exception):
        pass

    written = RunFolder.write_state
    left = at

    def write_state(self: RunFolder, state: Any) -> None:
        nonlocal left
        written(self, state)
        left -= 1
        if not left:
            raise Killed

    monkeypatch.setattr(RunFolder, "write_state", write_state)
    with pytest.raises(Killed):
        finetune(config(lam="auto", epochs=5, out=tmp_path / "cut"), recorder)
    again = finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    assert again["lam_search"]["scores"] == whole["lam_search"]["scores"]
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_killed_after_choosing_it_keeps_the_choice(
    config: Make, recorder: Any, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(row: dict[str, Any]) -> None:
        raise Killed

    whole = finetune(config(lam="auto", epochs=6, out=tmp_path / "whole"), recorder)
    recorder.at_epoch = kill  # the candidates' epochs are not reported
    with pytest.raises(Killed):
        finetune(config(lam="auto", epochs=6, out=tmp_path / "cut"), recorder)
    recorder.at_epoch = lambda row: None
    again = finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    assert again["lam"] == whole["lam"]
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_interrupted_it_names_the_run(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = RunFolder.write_state

    def write_state(self: RunFolder, state: Any) -> None:
        written(self, state)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunFolder, "write_state", write_state)
    with pytest.raises(Interrupted, match=f"choosing; go on with --resume {tmp_path / 'run'}$"):
        finetune(config(lam="auto", epochs=5), recorder)


def test_dry_run_writes_nothing(config: Make, recorder: Any, tmp_path: Path) -> None:
    summary = finetune(config(lam="auto", epochs=5), recorder, dry_run=True)
    assert summary["dry_run"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regularizer": "none"}, "no regulariser"),
        ({"epochs": 3}, "3 epochs are too few to decide by; 4"),
        ({"shots": 2}, "no image is held out"),
    ],
)
def test_refused_where_nothing_can_be_chosen(
    changes: dict[str, Any], message: str, config: Make, recorder: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"--lam auto: .*{message}"):
        finetune(config(**{"lam": "auto", "epochs": 5, **changes}), recorder)
    assert not (tmp_path / "run").exists()
