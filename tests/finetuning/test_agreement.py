"""Tests of the agreement of training images on a change of attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.agreement import (
    assign_folds,
    measure_agreement,
    query_key_weights,
    signal_to_noise,
)
from gtacli.finetuning.frozen_features import extract_features
from gtacli.finetuning.linear_head import fit_probe
from gtacli.finetuning.prepare import prepare

Make = Callable[..., FinetuneConfig]


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
        rows.append([g.flatten().double() for g in grads])
    assert len(found.blocks) == len(model.blocks)
    for value, block in zip(found.blocks, zip(*rows, strict=True), strict=True):
        g = torch.stack(block)
        signal = float((g @ g.T).fill_diagonal_(0).sum()) / 20
        noise = float((g * g).sum(1).mean()) - signal
        # The decoded images differ a little from those of the evaluation view.
        assert value == pytest.approx(max(0.0, 5 * signal / noise), rel=0.1, abs=0.05)


def _open(record: Any) -> Any:
    return Image.open(record.path).convert("RGB")


def test_estimate_is_the_same_for_every_batch_size(config: Make) -> None:
    few = prepare(config(batch_size=4))
    many = prepare(config(batch_size=16))
    a, b = (measure_agreement(job, job.records) for job in (few, many))
    assert a is not None
    assert b is not None
    assert a.blocks == pytest.approx(b.blocks, rel=1e-3, abs=1e-6)
    assert a.accuracy == b.accuracy


def test_a_part_of_the_images_is_scaled_to_all(config: Make) -> None:
    job = prepare(config())
    part = tuple(r for n, r in enumerate(job.records) if n % 3)
    found = measure_agreement(job, part)
    whole = prepare(config())
    whole.split = replace(whole.split, train=part)
    alone = measure_agreement(whole, part)
    assert found is not None
    assert alone is not None
    ratio = len(job.records) / len(part)
    assert found.blocks == pytest.approx([ratio * value for value in alone.blocks], rel=1e-4)


def test_requirements_of_gradients_stay(config: Make) -> None:
    job = prepare(config())
    weight: Any = job.target.model.blocks[0].attn.qkv.weight  # type: ignore[index, union-attr]
    weight.requires_grad_(False)
    measure_agreement(job, job.records)
    assert not weight.requires_grad
    assert weight.grad is None


def test_one_image_a_class_tells_nothing(config: Make) -> None:
    job = prepare(config(shots=1))
    assert measure_agreement(job, job.records) is None


def test_no_joint_projection_tells_nothing() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    assert [rows for _, rows in query_key_weights(model)] == [384]
    model.blocks[0].attn.qkv = torch.nn.Identity()  # type: ignore[operator, index, union-attr]
    assert query_key_weights(model) == []
