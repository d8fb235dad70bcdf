"""One step of the fine-tuning task, option by option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy

from gtacli.config.finetune import FinetuneConfig
from gtacli.training.setup import Job, prepare

Make = Callable[..., FinetuneConfig]


def batch(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 3


def ready(config: FinetuneConfig) -> Job:
    """A job with a classifier that says something (a new one starts at zero)."""
    job = prepare(config)
    torch.nn.init.normal_(job.target.model.head.weight)  # type: ignore[union-attr, arg-type]
    return job


def test_smoothed_labels(config: Make) -> None:
    task = ready(config(label_smoothing=0.3, regularizer="none")).task
    images, labels = batch()
    result = task.train()(images, labels)
    targets = torch.full((4, 3), 0.1)  # 0.3 over three classes
    targets[range(4), labels] += 0.7
    expected = -(targets * result["output"].detach().double().log_softmax(-1)).sum(-1).mean()
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert result["ce"].item() == result["loss"].item()


def test_smoothed_and_mixed_labels_are_timms(config: Make) -> None:
    task = ready(config(label_smoothing=0.1, regularizer="none", mix="cutmix")).task
    images, labels = batch()
    np.random.seed(3)
    result = task.train()(images, labels)
    np.random.seed(3)
    timm_mix = Mixup(mixup_alpha=0, cutmix_alpha=1, label_smoothing=0.1, num_classes=3)
    _, targets = timm_mix(images.float(), labels)
    expected = SoftTargetCrossEntropy()(result["output"], targets)
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_validation_is_not_smoothed(config: Make, recorder: Any) -> None:
    from gtacli.training.finetune import finetune

    finetune(config(epochs=2), recorder)
    finetune(config(epochs=2, label_smoothing=0.9, overwrite=True), recorder)
    plain, smoothed = recorder.rows[0], recorder.rows[2]
    # All labels nearly alike: the network learns next to nothing, and the loss does not hide it.
    assert smoothed["val_loss"] > plain["val_loss"]
