"""Tests of the decision whether the source's attention is kept, and of its estimate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import gtacli.finetuning.decision as decision
from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.pilot import Comparison
from gtacli.finetuning.run import finetune

Make = Callable[..., FinetuneConfig]


@pytest.fixture
def undecided(config: Make) -> Make:
    """Return a function that creates a config without a strength."""
    return lambda **changes: config(**{"lam": None, **changes})


def pilot_finds(monkeypatch: pytest.MonkeyPatch, difference: float | None) -> None:
    """Let the pilot find a difference with a standard error of 0.02; None: no held-out image."""
    found = None if difference is None else Comparison(difference, 0.02, 50)
    monkeypatch.setattr(decision, "compare", lambda *args: found)


@pytest.mark.parametrize(
    ("value", "lam", "kept"), [(0.0, 0.1, 1.0), (-0.5, 0.1, 1.0), (0.5, 0.0, 0.0), (None, 0.1, 1.0)]
)
def test_attention_is_kept_below_the_limit(
    undecided: Make,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    value: float | None,
    lam: float,
    kept: float,
) -> None:
    pilot_finds(monkeypatch, value)
    summary = finetune(undecided(epochs=1), recorder)
    assert (summary["lam"], summary["kept_attention"]) == (lam, kept)
    assert ("is kept" if kept else "is released") in summary["why"]
    assert ("reg.gta" in recorder.rows[0]) == bool(kept)
    saved = json.loads((Path(summary["run"]) / "kept_attention.json").read_text())
    assert saved["lam"] == lam
    assert summary["attention_drift"] is not None


@pytest.mark.parametrize("changes", [{"lam": 0.1}, {"regularizer": "l2-sp"}, {"lam": 0}])
def test_nothing_is_decided_for_the_user(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    pilot_finds(monkeypatch, 3.0)
    summary = finetune(undecided(epochs=1, **changes), recorder)
    assert "why" not in summary
    assert not (Path(summary["run"]) / "kept_attention.json").exists()


def test_kept_attention_is_the_default_strength(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pilot_finds(monkeypatch, 0.0)
    finetune(undecided(out=tmp_path / "a"), recorder)
    every = {"gta": {"every": decision.EVERY}}
    finetune(undecided(out=tmp_path / "b", lam=0.1, regularizer=every), recorder)
    assert _weights(tmp_path / "a") == _weights(tmp_path / "b")


def test_released_attention_is_plain_fine_tuning(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pilot_finds(monkeypatch, 9.0)
    finetune(undecided(out=tmp_path / "a"), recorder)
    finetune(undecided(out=tmp_path / "b", regularizer="none"), recorder)
    assert _weights(tmp_path / "a") == _weights(tmp_path / "b")


def _weights(run: Path) -> dict[str, bytes]:
    tensors = load_file(run / "model.safetensors")
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def test_resumed_run_keeps_its_decision(
    undecided: Make,
    interrupted: Callable[..., dict[str, Any]],
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pilot_finds(monkeypatch, 9.0)
    whole = finetune(undecided(out=tmp_path / "whole"), recorder)
    parts = interrupted(undecided(out=tmp_path / "parts"))
    assert parts["why"] == whole["why"]
    assert _weights(tmp_path / "whole") == _weights(tmp_path / "parts")


def test_a_run_from_before_decisions_keeps_its_strength(
    undecided: Make, interrupted: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "DECISION_FILE", "elsewhere.json")
    pilot_finds(monkeypatch, 0.0)
    original = decision.decide

    def forget(job: Any, run: Any, dry_run: bool = False) -> Any:
        result = original(job, run, dry_run)
        (run.path / "elsewhere.json").unlink(missing_ok=True)
        return result

    monkeypatch.setattr("gtacli.finetuning.run.decide", forget)
    summary = interrupted(undecided())
    assert "why" not in summary


def test_dry_run_writes_nothing(undecided: Make, recorder: Any, tmp_path: Path) -> None:
    summary = finetune(undecided(), recorder, dry_run=True)
    assert "why" in summary
    assert not (tmp_path / "run").exists()
