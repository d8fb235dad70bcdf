"""Tests of the estimate whether the source's attention suits the labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import gtacli.finetuning.suitability as suitability
from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.linear_head import FrozenFeatures
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.suitability import (
    Suitability,
    compare,
    find_suitability,
    measure_suitability,
)
from tests.conftest import write_tiny_model

Make = Callable[..., FinetuneConfig]


@pytest.mark.parametrize(
    ("cls", "blocks", "verdict"),
    [(0.6, 0.5, 1), (0.5, 0.6, -1), (0.52, 0.5, 0), (0.5, 0.52, 0), (0.5, 0.5, 0)],
)
def test_verdict_needs_more_than_a_standard_error(cls: float, blocks: float, verdict: int) -> None:
    assert Suitability(cls, blocks, error=0.03).verdict == verdict


def test_classifiers_that_agree_on_all_images_leave_it_open() -> None:
    right = torch.tensor([True, False, True])
    found = compare(right, right)
    assert (found.cls, found.error, found.verdict) == (pytest.approx(2 / 3), 0.0, 0)


def test_error_is_that_of_the_paired_difference() -> None:
    rng = np.random.default_rng(0)
    # The first has 70 % right; the other differs from it in a tenth of the images.
    errors, differences = [], []
    for _ in range(2000):
        ours = rng.random(80) < 0.7
        theirs = np.where(rng.random(80) < 0.1, ~ours, ours)
        found = compare(torch.from_numpy(ours), torch.from_numpy(theirs))
        errors.append(found.error)
        differences.append(found.cls - found.blocks)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(differences), rel=0.05)


@pytest.mark.parametrize("told", ["cls", "blocks"])
def test_where_the_classes_are_told_is_found(
    config: Make, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    job = prepare(config())
    labels = torch.arange(60) % len(job.dataset.classes)
    values = torch.randn(60, 2 * job.depth, 24, generator=torch.Generator().manual_seed(0))
    columns = [-2] if told == "cls" else range(2 * job.depth - 2)  # the last block's CLS token
    for column in columns:
        values[:, column] += 2 * torch.nn.functional.one_hot(labels, 24)
    features = FrozenFeatures(values, labels, torch.arange(60))
    monkeypatch.setattr(suitability, "extract_features", lambda *args, **kwargs: features)
    found = measure_suitability(job, job.target, job.records)
    assert found.verdict == (1 if told == "cls" else -1)


def test_features_are_those_of_all_blocks(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepare(config())
    seen: list[FrozenFeatures] = []
    extract = suitability.extract_features

    def spy(*args: Any, **kwargs: Any) -> FrozenFeatures:
        seen.append(extract(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(suitability, "extract_features", spy)
    few = measure_suitability(job, job.target, job.records)
    model: Any = job.target.model.eval()
    images = torch.stack([job.target.preprocess(_open(r)) for r in job.records])
    with torch.no_grad():
        _, blocks = model.forward_intermediates(
            images, norm=True, output_fmt="NLC", return_prefix_tokens=True
        )
    expected = torch.stack(
        [part for patches, prefix in blocks for part in (prefix[:, 0], patches.mean(1))], 1
    )
    # The decoded images differ a little from those of the evaluation view.
    assert torch.allclose(seen[0].values, expected, atol=0.1)
    other = prepare(config(batch_size=4))
    assert measure_suitability(other, other.target, other.records) == few


def _open(record: Any) -> Any:
    return Image.open(record.path).convert("RGB")


def test_it_is_measured_once_a_run(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    measure = suitability.measure_suitability

    def spy(job: Any, network: Any, records: Any) -> Suitability:
        calls.append(len(records))
        return measure(job, network, records)

    monkeypatch.setattr(suitability, "measure_suitability", spy)
    job = prepare(config())
    first = find_suitability(job)
    assert find_suitability(prepare(config(), stores=job.stores)) is first
    assert calls == [len(job.records)]
    no_cls = config(model="test_vit2@none", image_size=(32, 32))
    assert find_suitability(prepare(no_cls.model_copy(update={"regularizer": {}}))) is None


def test_it_is_that_of_the_source_whose_attention_would_be_kept(
    config: Make, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = write_tiny_model(tmp_path / "other")
    with safe_open(other / "model.safetensors", "pt") as file:
        header, weights = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    noisy = {name: w + 0.1 * torch.randn_like(w) for name, w in weights.items()}
    save_file(noisy, other / "model.safetensors", header)
    extract = suitability.extract_features

    def features(of_source: bool = False, **changes: Any) -> torch.Tensor:
        seen: list[FrozenFeatures] = []

        def spy(*args: Any, **kwargs: Any) -> FrozenFeatures:
            seen.append(extract(*args, **kwargs))
            return seen[-1]

        monkeypatch.setattr(suitability, "extract_features", spy)
        find_suitability(prepare(config(**changes)), of_source=of_source)
        return seen[0].values

    own, theirs = features(model=str(tiny_model)), features(model=str(other))
    assert not torch.allclose(own, theirs, atol=0.1)

    def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
        return torch.allclose(found, expected, atol=1e-3)

    assert near(features(source=str(other)), own)  # what the classifier starts from
    assert near(features(True, source=str(other)), theirs)
    assert near(features(init=str(other)), theirs)
    assert near(features(True, init=str(other)), own)
    assert near(features(True), own)


def test_a_refit_sees_the_estimate_of_the_run(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is measured anew where the run was interrupted, and must not differ."""
    seen: list[Any] = []
    monkeypatch.setattr(suitability, "measure_suitability", lambda *args: seen.append(args[2]))
    find_suitability(prepare(config()))
    find_suitability(prepare(config(refit=True), refit=True))
    assert len(seen) == 2
    assert seen[0] == seen[1]
