"""Tests of the decision whether the source's attention is kept, and of its estimate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from gtacli.finetuning.agreement import (
    Agreement,
    assign_folds,
    measure_agreement,
    query_key_weights,
    signal_to_noise,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

import gtacli.finetuning.decision as decision
from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.frozen_features import extract_features
from gtacli.finetuning.linear_head import fit_probe
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune

Make = Callable[..., FinetuneConfig]


@pytest.fixture
def undecided(config: Make) -> Make:
    """Return a function that creates a config without a strength."""
    return lambda **changes: config(**{"lam": None, **changes})


def agreement(monkeypatch: pytest.MonkeyPatch, value: float | None) -> None:
    """Let the estimate be `value`; None: nothing can be estimated."""
    found = None if value is None else Agreement(value, (value,) * 3, 0.5, 12)
    monkeypatch.setattr(decision, "measure_agreement", lambda job, records: found)


@given(st.integers(2, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_signal_and_noise_are_those_of_the_plain_formula(folds: int, width: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    g = torch.randn(folds, width, generator=rng, dtype=torch.float64) + 0.5
    pairs = [float(g[i] @ g[j]) for i in range(folds) for j in range(folds) if i != j]
    signal = sum(pairs) / len(pairs)
    noise = float((g * g).sum(1).mean()) - signal
    expected = max(0.0, folds * signal / noise)
    found = signal_to_noise(float(g.sum(0) @ g.sum(0)), float((g * g).sum()), folds)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_estimate_is_unbiased_and_grows_with_the_images() -> None:
    rng = torch.Generator().manual_seed(0)
    mean = torch.full((50,), 0.1)

    def estimate(scale: float) -> float:
        draws = mean + torch.randn(2000, 5, 50, generator=rng) / scale**0.5
        sums = draws.sum(1).square().sum(-1).mean()
        return signal_to_noise(float(sums), float(draws.square().sum((1, 2)).mean()), 5)

    # 5 folds: signal 0.5, noise of a fold 50.
    assert estimate(1) == pytest.approx(5 * 0.5 / 50, rel=0.15)
    assert estimate(4) == pytest.approx(4 * 5 * 0.5 / 50, rel=0.15)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(2, 6))
def test_folds_spread_every_class(labels: list[int], folds: int) -> None:
    fold = assign_folds(torch.tensor(labels), folds)
    for label in set(labels):
        counts = fold[torch.tensor(labels) == label].bincount(minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_gradients_are_those_of_autograd(config: Make) -> None:
    job = prepare(config(hold_out="none", drift=False, regularizer="none"))
    found = measure_agreement(job, job.records)
    assert found is not None
    features = extract_features(job, job.records)
    folds = assign_folds(features.labels, 5)
    model: Any = job.target.model.eval()
    images = torch.stack([job.target.preprocess(_open(r)) for r in job.records])
    rows = []
    for fold in range(5):
        inside = folds == fold
        head = fit_probe(features.select(~inside), len(job.dataset.classes))
        model.zero_grad()
        values = model.forward_head(model.forward_features(images[inside]), pre_logits=True)
        F.cross_entropy(head.logits(values), features.labels[inside]).backward()
        grads = [b.attn.qkv.weight.grad[: 2 * b.attn.qkv.weight.shape[1]] for b in model.blocks]
        rows.append(torch.cat([g.flatten() for g in grads]).double())
    g = torch.stack(rows)
    signal = float((g @ g.T).fill_diagonal_(0).sum()) / 20
    noise = float((g * g).sum(1).mean()) - signal
    # The decoded images differ a little from those of the evaluation view.
    assert found.agreement == pytest.approx(max(0.0, 5 * signal / noise), rel=0.1, abs=0.05)
    assert len(found.blocks) == len(model.blocks)


def _open(record: Any) -> Any:
    return Image.open(record.path).convert("RGB")


def test_estimate_is_the_same_for_every_batch_size(config: Make) -> None:
    few = prepare(config(batch_size=4))
    many = prepare(config(batch_size=16))
    a, b = (measure_agreement(job, job.records) for job in (few, many))
    assert a is not None
    assert b is not None
    assert a.agreement == pytest.approx(b.agreement, rel=1e-3, abs=1e-6)
    assert a.accuracy == b.accuracy


def test_a_part_of_the_images_is_scaled_to_all(config: Make) -> None:
    job = prepare(config())
    half = job.records[::2]
    found, whole = measure_agreement(job, half), measure_agreement(job, job.records)
    assert found is not None
    assert whole is not None
    assert found.images == len(half)


def test_one_image_a_class_tells_nothing(config: Make) -> None:
    job = prepare(config(shots=1))
    assert measure_agreement(job, job.records) is None


def test_no_joint_projection_tells_nothing() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    assert [rows for _, rows in query_key_weights(model)] == [384]
    model.blocks[0].attn.qkv = torch.nn.Identity()  # type: ignore[operator, index, union-attr]
    assert query_key_weights(model) == []


@pytest.mark.parametrize(
    ("value", "lam", "kept"), [(0.0, 0.1, 1.0), (0.49, 0.1, 1.0), (0.5, 0.0, 0.0), (None, 0.1, 1.0)]
)
def test_attention_is_kept_below_the_limit(
    undecided: Make,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    value: float | None,
    lam: float,
    kept: float,
) -> None:
    agreement(monkeypatch, value)
    summary = finetune(undecided(epochs=1), recorder)
    assert (summary["lam"], summary["kept_attention"]) == (lam, kept)
    assert summary["agreement"] == value
    assert ("is kept" if kept else "is released") in summary["why"]
    assert ("reg.gta" in recorder.rows[0]) == bool(kept)
    saved = json.loads((Path(summary["run"]) / "kept_attention.json").read_text())
    assert saved["lam"] == lam
    assert summary["attention_drift"] is not None


@pytest.mark.parametrize("changes", [{"lam": 0.1}, {"regularizer": "l2-sp"}, {"lam": 0}])
def test_nothing_is_decided_for_the_user(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    agreement(monkeypatch, 3.0)
    summary = finetune(undecided(epochs=1, **changes), recorder)
    assert "why" not in summary
    assert not (Path(summary["run"]) / "kept_attention.json").exists()


def test_kept_attention_is_the_default_strength(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agreement(monkeypatch, 0.0)
    finetune(undecided(out=tmp_path / "a"), recorder)
    finetune(undecided(out=tmp_path / "b", lam=0.1), recorder)
    assert _weights(tmp_path / "a") == _weights(tmp_path / "b")


def test_released_attention_is_plain_fine_tuning(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agreement(monkeypatch, 9.0)
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
    agreement(monkeypatch, 9.0)
    whole = finetune(undecided(out=tmp_path / "whole"), recorder)
    parts = interrupted(undecided(out=tmp_path / "parts"))
    assert parts["why"] == whole["why"]
    assert _weights(tmp_path / "whole") == _weights(tmp_path / "parts")


def test_a_run_from_before_decisions_keeps_its_strength(
    undecided: Make, interrupted: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "DECISION_FILE", "elsewhere.json")
    agreement(monkeypatch, 0.0)
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
