"""The option `balance`, against the plain formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup

from gtacli.config.finetune import FinetuneConfig
from gtacli.data import Record
from gtacli.data.loader import Batch
from gtacli.data.sampling import evenly
from gtacli.finetuning.head_start import start_head
from gtacli.finetuning.job import FinetuneJob
from gtacli.finetuning.linear_head import FrozenFeatures, LinearHead, fit_probe, without_prior
from gtacli.finetuning.per_class import class_weights
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune

Make = Callable[..., FinetuneConfig]


def records(labels: list[int]) -> list[Record]:
    return [Record(str(i), label, Path(str(i))) for i, label in enumerate(labels)]


def test_all_classes_weigh_alike() -> None:
    labels = [0] * 8 + [1] * 3 + [3]
    found = class_weights(records(labels), 5)
    assert [8 * found[0], 3 * found[1], found[3]] == pytest.approx([4, 4, 4])
    assert found[[2, 4]].tolist() == [0, 0]
    assert float(found[torch.tensor(labels)].mean()) == pytest.approx(1)


def unequal(config: Make, **options: Any) -> FinetuneJob:
    """Return a job whose classes have other weights, and a random classifier."""
    job = prepare(config(balance="loss", regularizer="none", **options))
    torch.nn.init.normal_(job.target.model.head.weight)  # type: ignore[union-attr, arg-type]
    job.task.loss = replace(job.task.loss, weights=torch.tensor([0.5, 1.0, 2.5]))
    return job


def make_batch(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Batch(images, torch.arange(count) % 3, torch.arange(count), torch.zeros(count, 5))


@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_the_loss_is_the_weighted_mean(config: Make, mix: str) -> None:
    task = unequal(config, mix=mix, label_smoothing=0.1).task
    batch = make_batch()
    np.random.seed(3)
    result = task.train()(batch)
    targets = torch.nn.functional.one_hot(batch.labels, 3).double()
    if mix == "cutmix":
        np.random.seed(3)
        _, mixed = Mixup(mixup_alpha=0, cutmix_alpha=1, label_smoothing=0, num_classes=3)(
            batch.images.float(), batch.labels
        )
        targets = mixed.double()
    logs = result["output"].detach().double().log_softmax(-1)
    # Each class of a mixed image has its own weight, with its part of the smoothing.
    by_class = -(0.9 * logs + 0.1 / 3 * logs.sum(-1, keepdim=True))
    losses = (targets * torch.tensor([0.5, 1.0, 2.5]).double() * by_class).sum(-1)
    assert result["loss"].item() == pytest.approx(losses.mean().item(), rel=1e-5)


def test_the_prior_is_that_of_the_images_that_the_start_is_fitted_to(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more images than it is fitted to some are taken, of all classes alike."""
    monkeypatch.setattr("gtacli.finetuning.head_start.MOST_IMAGES", 6)
    seen: list[list[int]] = []

    def note(head: LinearHead, labels: torch.Tensor) -> LinearHead:
        seen.append(labels.tolist())
        return head

    monkeypatch.setattr("gtacli.finetuning.head_start.without_prior", note)
    job = prepare(config(balance="loss", regularizer="none", head_init="probe"))
    start_head(job)
    assert seen == [[record.label for record in evenly(job.records, 6)]]
    assert len(seen[0]) == 6


def test_a_probe_without_prior_predicts_rare_classes_more_often() -> None:
    rng = np.random.default_rng(0)
    counts = [300, 30, 5]
    labels = np.repeat([0, 1, 2], counts)
    means = 0.8 * rng.standard_normal((3, 6))
    x = rng.standard_normal((len(labels), 6)) + means[labels]
    features = FrozenFeatures(
        torch.tensor(x).float(), torch.tensor(labels), torch.arange(len(labels))
    )
    plain = fit_probe(features, 3)
    found = without_prior(plain, torch.tensor(labels))
    assert (plain.bias - found.bias).numpy() == pytest.approx(np.log(counts), abs=1e-4)
    own = np.repeat([0, 1, 2], 300)
    test = torch.tensor(rng.standard_normal((900, 6)) + means[own]).float()
    rare, before = ((head.logits(test).argmax(1) == 2).sum() for head in (found, plain))
    assert rare > before
    right = lambda head: (head.logits(test).argmax(1).numpy() == own).mean()  # noqa: E731
    assert right(found) > right(plain)  # of classes that are equally frequent


@pytest.mark.parametrize("balance", ["loss", "sampling"])
def test_a_run_ends_and_records_it(
    config: Make, recorder: Any, tmp_path: Path, balance: str
) -> None:
    finetune(config(out=tmp_path / "run", balance=balance, epochs=1), recorder)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["balance"] == balance


def test_views_of_the_source_and_sampling_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        FinetuneConfig(balance="sampling", source_views=2)
