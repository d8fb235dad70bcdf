"""Tests of `lam=auto`: the search with given accuracies, and runs on the tiny dataset."""

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
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import GtaError, Interrupted, RunError, UsageError
from gtacli.finetuning import run
from gtacli.finetuning.results import SearchResult
from gtacli.finetuning.run import finetune
from gtacli.finetuning.search import choices, decisions, report, search, within_error
from gtacli.finetuning.suitability import Suitability
from gtacli.runtime.run_folder import RunFolder

Make = Callable[..., FinetuneConfig]
LAMS = (0.0, 0.1, 1.0)
nan = math.nan


def halve(
    accuracies: dict[float, list[float]],
    epochs: int = 5,
    images: int = 100,
    weakest: bool = False,
) -> tuple[SearchResult, list[tuple[float, int]]]:
    """Run a search with these accuracies by epoch; return its result and what it trained."""
    calls: list[tuple[float, int]] = []

    def train(lam: float, folder: RunFolder, stop: int) -> list[dict[str, Any]]:
        calls.append((lam, stop))
        rows = [{"epoch": i, "val_top1": a} for i, a in enumerate(accuracies[lam][:stop])]
        if any(a is not None and math.isnan(a) for a in accuracies[lam][:stop]):
            raise RunError("the loss is not finite")
        return rows

    folder = RunFolder(Path("nowhere"), dry=True)
    lams = sorted(accuracies)
    return search(lams, epochs, lambda: images, folder, train, weakest), calls


def test_best_and_strongest_within_error_continue() -> None:
    # One standard error of 0.8 on 100 images is 0.04.
    found, calls = halve({0.0: [0.8, 0.7, 0.9], 0.1: [0.7, 0.77, 0.75], 1.0: [0.7, 0.7, 0.99]})
    assert calls == [*((lam, 2) for lam in LAMS), (0.0, 3), (0.1, 3)]
    assert found["scores"] == {"0": [0.8, 0.9], "0.1": [0.77, 0.77], "1": [0.7]}
    assert found["chosen"] == 0  # 0.77 is more than 0.03 below 0.9
    # Together with the two epochs that the winner has yet to train: two runs.
    assert found["epochs"] + 2 == 10


def test_strongest_of_equal_candidates_is_chosen() -> None:
    found, calls = halve({0.0: [0.8] * 3, 0.1: [0.8] * 3, 1.0: [0.77] * 3})
    assert found["chosen"] == 1.0
    assert calls[3:] == [(0.1, 3), (1.0, 3)]  # on a tie the stronger one counts as the best
    found, calls = halve({0.0: [0.7] * 3, 0.1: [0.7] * 3, 1.0: [0.8] * 3})
    assert calls[3:] == [(1.0, 3)]
    assert found["epochs"] + 2 == 9


def test_weakest_of_equal_candidates_is_chosen() -> None:
    found, calls = halve({0.0: [0.77] * 3, 0.1: [0.8] * 3}, weakest=True)
    assert found["chosen"] == 0
    assert calls == [(0.0, 2), (0.1, 2), (0.0, 3), (0.1, 3)]  # the best one continues beside it
    found, calls = halve({0.0: [0.8] * 3, 0.1: [0.8] * 3}, weakest=True)
    assert calls[2:] == [(0.0, 3)]  # on a tie the weaker one counts as the best
    found, _ = halve({0.0: [0.7] * 3, 0.1: [0.8] * 3}, weakest=True)
    assert found["chosen"] == 0.1  # 0.7 is more than 0.04 below


@given(st.integers(5, 1000))
def test_cost_in_runs(epochs: int) -> None:
    first, second = decisions(epochs)
    assert 1 <= first < second < epochs
    rest = 2 * (second - first) + (epochs - second)
    assert 3 * first + rest <= 2 * epochs
    assert 2 * first + rest <= 1.6 * epochs


def test_no_readable_held_out_image() -> None:
    with pytest.raises(RunError, match="no held-out image could be read"):
        halve({lam: [None] * 3 for lam in LAMS})  # type: ignore[misc]


@pytest.mark.parametrize(("images", "chosen"), [(50, 1.0), (5000, 0.0)])
def test_standard_error_depends_on_images(images: int, chosen: float) -> None:
    accuracies = {0.0: 0.79, 0.1: 0.76, 1.0: 0.74}
    error = (0.79 * 0.21 / images) ** 0.5
    assert (error >= 0.79 - 0.74) == (chosen == 1.0)
    assert within_error(accuracies, images) == chosen
    assert within_error(accuracies, images, weakest=True) == 0


def test_failed_candidate_is_dropped() -> None:
    found, calls = halve({0.0: [0.5] * 3, 0.1: [0.5] * 3, 1.0: [nan] * 3})
    assert found["chosen"] == 0.1
    assert found["scores"]["1"] == [None]
    assert (1.0, 3) not in calls
    with pytest.raises(RunError, match="with every strength"):
        halve({lam: [nan] * 3 for lam in LAMS})


def test_report_of_choice_zero() -> None:
    found, _ = halve({0.0: [0.9] * 3, 0.1: [0.7] * 3, 1.0: [0.6] * 3})
    assert "chose 0" in report(found, 5)
    assert "4 epochs more than a run of 5" in report(found, 5)


def test_choices_around_the_default() -> None:
    assert choices("gta") == (0.0, 0.1, 1.0)
    assert choices("gta", estimated=True) == (0.0, 0.1)
    assert choices("bss") == (0.0, 0.001, 0.01)


def test_chosen_run_matches_run_with_that_strength(
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
    # What the scores were made of: the best epochs so far.
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    score = summary["lam_search"]["scores"][f"{summary['lam']:g}"]
    assert score == [max(r["val_top1"] for r in rows[:n]) for n in (2, 3)]
    assert 5 <= summary["lam_search"]["epochs"] <= 6


@pytest.mark.parametrize(
    ("regularizer", "blocks", "lams", "weakest"),
    [
        ("gta", 0.2, [0.0, 0.1], False),
        ("gta", 0.9, [0.0, 0.1], True),
        ("bss", 0.9, [0.0, 0.001, 0.01], False),
    ],
)
def test_estimate_of_the_source(
    regularizer: str,
    blocks: float,
    lams: list[float],
    weakest: bool,
    config: Make,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it says of GTA decides where the held-out images cannot."""

    class Stopped(Exception):
        pass

    def stop(candidates: Any, *rest: Any) -> SearchResult:
        *_, weakest, why = rest
        raise Stopped(list(candidates), weakest, why)

    estimate = Suitability(cls=0.5, blocks=blocks, error=0.1)
    monkeypatch.setattr(run, "find_suitability", lambda *args, **kwargs: estimate)
    monkeypatch.setattr(run, "search", stop)
    caplog.set_level("INFO")
    with pytest.raises(Stopped) as stopped:
        finetune(config(lam="auto", epochs=5, regularizer=[regularizer]), recorder)
    tried, chosen, why = stopped.value.args
    assert (tried, chosen) == (lams, weakest)
    if regularizer == "bss":
        assert why is None
    else:
        assert f"the {'weaker' if weakest else 'stronger'} is taken" in why
        assert f"tries 0 and 0.1; {why}" in caplog.text


@pytest.mark.parametrize("at", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_resume_after_kill_during_search(
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


def test_edited_record_is_refused_during_the_search(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its candidates would be trained on with other options than they began with."""
    run, written = tmp_path / "run", RunFolder.write_state

    class Killed(Exception):
        pass

    def write_state(self: RunFolder, state: Any) -> None:
        written(self, state)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_state", write_state)
        with pytest.raises(Killed):
            finetune(config(lam="auto", epochs=5, out=run), recorder)
    record = (run / "run.json").read_text()
    edited = json.loads(record)
    edited["config"]["lr"] = 0.5
    (run / "run.json").write_text(json.dumps(edited))
    with pytest.raises(GtaError, match=r"run\.json was changed: `lr` was 0\.001 in training"):
        finetune(FinetuneConfig(resume=run), recorder)
    (run / "run.json").write_text(record)
    assert "lam" in finetune(FinetuneConfig(resume=run), recorder)


def test_resume_after_kill_keeps_the_choice(config: Make, recorder: Any, tmp_path: Path) -> None:
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


def test_interruption_names_the_run(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = RunFolder.write_state

    def write_state(self: RunFolder, state: Any) -> None:
        written(self, state)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunFolder, "write_state", write_state)
    with pytest.raises(Interrupted, match=f"choosing; continue with `resume` {tmp_path / 'run'}$"):
        finetune(config(lam="auto", epochs=5), recorder)


def test_dry_run_writes_nothing(config: Make, recorder: Any, tmp_path: Path) -> None:
    summary = finetune(config(lam="auto", epochs=5), recorder, dry_run=True)
    assert summary["dry_run"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regularizer": "none"}, "no regularizer"),
        ({"epochs": 4}, "4 epochs are too few to decide by; use at least 5"),
        ({"shots": 2}, "no image is held out"),
        ({"freeze_epochs": 1}, "after 2 of 5 epochs.* take 2, in which"),
    ],
)
def test_invalid_search(
    changes: dict[str, Any], message: str, config: Make, recorder: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"lam: auto: .*{message}"):
        finetune(config(**{"lam": "auto", "epochs": 5, **changes}), recorder)
    assert not (tmp_path / "run").exists()
