"""Tests of the start of a new classifier and of the linear probe that a run reports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from scipy.optimize import minimize
from torch.nn import functional as F

import gtacli.finetuning.head_start as head_start
from gtacli.config.finetune import FinetuneConfig
from gtacli.data.base import Record
from gtacli.data.sampling import evenly
from gtacli.finetuning.frozen_features import extract_features
from gtacli.finetuning.head_start import start_head
from gtacli.finetuning.linear_head import (
    FrozenFeatures,
    LinearHead,
    fit_centroids,
    fit_probe,
    set_head,
)
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.finetuning.suitability import Suitability
from gtacli.models.weights import head_prefixes

Make = Callable[..., FinetuneConfig]


def clusters(images: int, width: int, classes: int, seed: int = 0) -> FrozenFeatures:
    """Return features around class means, far from 0 and of another scale than 1."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    means = torch.randn(classes, width, generator=rng)
    values = means[labels] + torch.randn(images, width, generator=rng)
    return FrozenFeatures(7 * values + 20, labels, torch.arange(images))


@pytest.mark.parametrize("width", [5, 60])
def test_probe_minimizes_the_plain_formula(width: int) -> None:
    features = clusters(40, width, 4)
    head = fit_probe(features, 4, c=0.3)
    x = features.values.double().numpy()
    center, scale = x.mean(0), np.sqrt(((x - x.mean(0)) ** 2).mean())
    z, y = (x - center) / scale, features.labels.numpy()

    def loss(flat: np.ndarray) -> float:
        w, b = flat[: 4 * width].reshape(4, width), flat[4 * width :]
        logits = z @ w.T + b
        logits -= logits.max(1, keepdims=True)
        nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(40), y]
        return float(0.3 * nll.sum() + (w**2).sum() / 2)

    found = minimize(loss, np.zeros(4 * width + 4), method="L-BFGS-B", options={"maxiter": 5000})
    w, b = found.x[: 4 * width].reshape(4, width), found.x[4 * width :]
    expected = torch.from_numpy(z @ w.T + b)
    ours = head.logits(features.values).double()
    # The softmax does not depend on a shift of an image's logits.
    difference = (ours - ours.mean(1, keepdim=True)) - (expected - expected.mean(1, keepdim=True))
    assert difference.abs().max() < 1e-2
    assert head.weight.dtype == torch.float32


def test_centroids_choose_the_nearest_class_mean() -> None:
    features, others = clusters(40, 6, 4), clusters(200, 6, 4, seed=1)
    head = fit_centroids(features, 5)  # the last class has no image
    means = torch.stack([features.values[features.labels == k].mean(0) for k in range(4)])
    nearest = torch.cdist(others.values.double(), means.double()).argmin(1)
    assert torch.equal(head.logits(others.values).argmax(1), nearest)


def test_centroids_of_one_image_a_class() -> None:
    features = clusters(4, 6, 4)
    head = fit_centroids(features, 4)
    assert head.accuracy(features) == 1
    assert head.weight.isfinite().all()


def test_constant_features_give_no_nan() -> None:
    features = FrozenFeatures(torch.ones(6, 3), torch.arange(6) % 2, torch.arange(6))
    for head in (fit_probe(features, 2), fit_centroids(features, 2)):
        assert head.weight.isfinite().all()
        assert head.bias.isfinite().all()


def test_both_classifiers_of_a_distilled_model() -> None:
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=3, img_size=32, depth=1
    ).eval()
    head = LinearHead(torch.randn(3, 192), torch.randn(3))
    assert set_head(model, head_prefixes(model), head)
    tokens: Any = model.forward_features(torch.randn(2, 3, 32, 32))  # type: ignore[operator]
    features: Any = model.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
    logits: Any = model.forward_head(tokens)  # type: ignore[operator]
    assert torch.allclose(logits, head.logits(features), atol=1e-5)


def test_a_classifier_that_is_not_linear_stays() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=1)
    model.head = torch.nn.Sequential(torch.nn.Linear(192, 3))
    assert not set_head(model, ("head",), LinearHead(torch.ones(3, 192), torch.ones(3)))


def test_features_are_those_that_the_classifier_gets(config: Make) -> None:
    job = prepare(config(batch_size=2))
    features = extract_features(job, job.split.train)
    assert features.labels.tolist() == [r.label for r in job.split.train]
    model: Any = job.target.model
    with torch.no_grad():
        model.head.weight.normal_()
        model.eval()
        for record, value in zip(job.split.train, features.values, strict=True):
            assert isinstance(record.source, Path)
            image = job.target.preprocess(Image.open(record.source).convert("RGB"))
            logits = model(image[None])[0]
            assert torch.allclose(logits, F.linear(value, model.head.weight), atol=0.05)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_run_starts_as_the_linear_probe(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, ema: float | None
) -> None:
    # At this learning rate the weights stay where they start.
    monkeypatch.setitem(head_start.FIT, "probe", fit_probe)  # as the one that is reported
    summary = finetune(config(head_init="probe", epochs=1, lr=1e-12, ema=ema), recorder)
    assert summary["linear_probe_top1"] == summary["test_top1"]
    folder = Path(summary["run"])
    assert json.loads((folder / "linear_probe.json").read_text()) == {
        "linear_probe_top1": summary["linear_probe_top1"]
    }
    assert load_file(folder / "model.safetensors")["head.weight"].abs().sum() > 0


@pytest.mark.parametrize("method", ["probe", "centroid"])
def test_start_separates_the_training_images(config: Make, method: str) -> None:
    job = prepare(config(head_init=method))
    start_head(job)
    model: Any = job.target.model
    features = extract_features(job, job.split.train)
    head = LinearHead(model.head.weight.detach(), model.head.bias.detach())
    assert head.accuracy(features) > 0.6  # chance: see the number of classes below
    assert len(job.dataset.classes) >= 2


def test_random_start_is_zero_and_measures_the_probe(config: Make, recorder: Any) -> None:
    job = prepare(config(head_init="random"))
    start_head(job)
    model: Any = job.target.model
    assert model.head.weight.abs().sum() == 0
    assert "linear_probe_top1" in finetune(config(head_init="random", epochs=1), recorder)


def test_no_probe_where_it_is_switched_off(config: Make, recorder: Any) -> None:
    summary = finetune(config(linear_probe=False, epochs=1), recorder)
    assert "linear_probe_top1" not in summary


def test_a_trained_classifier_stays(config: Make, recorder: Any, tmp_path: Path) -> None:
    finetune(config(out=tmp_path / "first", epochs=1), recorder)
    before = load_file(tmp_path / "first" / "model.safetensors")["head.weight"]
    again = config(init=str(tmp_path / "first"), head_init="probe")
    job = prepare(again)
    start_head(job)
    model: Any = job.target.model
    assert torch.equal(model.head.weight, before)
    assert "linear_probe_top1" not in finetune(again.model_copy(update={"epochs": 1}), recorder)


def test_resumed_run_keeps_what_was_measured(
    config: Make, interrupted: Callable[..., dict[str, Any]], recorder: Any, tmp_path: Path
) -> None:
    whole = finetune(config(head_init="probe", out=tmp_path / "whole"), recorder)
    parts = interrupted(config(head_init="probe", out=tmp_path / "parts"))
    assert parts["linear_probe_top1"] == whole["linear_probe_top1"]
    weights = [load_file(tmp_path / n / "model.safetensors") for n in ("whole", "parts")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 50))
def test_evenly_takes_as_many_of_each_class(labels: list[int], most: int) -> None:
    records = tuple(Record(f"{n}.png", label, Path(f"{n}.png")) for n, label in enumerate(labels))
    kept = evenly(records, most)
    assert len(kept) == min(most, len(records))
    assert [r for r in records if r in set(kept)] == list(kept)
    has, took = Counter(labels), Counter(r.label for r in kept)
    assert all(took[k] == has[k] or took[k] >= max(took.values()) - 1 for k in has)


@pytest.mark.parametrize(("verdict", "starts_at_zero"), [(1, False), (0, False), (-1, True)])
def test_auto_starts_at_zero_where_the_source_does_not_suit(
    config: Make, monkeypatch: pytest.MonkeyPatch, verdict: int, starts_at_zero: bool
) -> None:
    found = Suitability(0.5, 0.5 - 0.1 * verdict, 0.01)
    monkeypatch.setattr(head_start, "find_suitability", lambda job, most: found)
    for train, zero in (("all", starts_at_zero), ("head", False)):
        job = prepare(config(head_init="auto", train=train))
        start_head(job)
        model: Any = job.target.model
        assert (model.head.weight.abs().sum() == 0) == zero
