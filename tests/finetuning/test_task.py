"""Tests of a single step of the fine-tuning task, by option."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.data.mixup import Mixup
from timm.layers import DropPath
from timm.loss import SoftTargetCrossEntropy

from gtacli import load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.data.loader import Batch
from gtacli.finetuning.job import FinetuneJob
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.models.files import read_weights

Make = Callable[..., FinetuneConfig]


def make_batch(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Batch(images, torch.arange(count) % 3, torch.arange(count), torch.zeros(count, 5))


def ready(config: FinetuneConfig) -> FinetuneJob:
    """Prepare a job with a random classifier (a new one is zero)."""
    job = prepare(config)
    torch.nn.init.normal_(job.target.model.head.weight)  # type: ignore[union-attr, arg-type]
    return job


def test_smoothed_labels(config: Make) -> None:
    task = ready(config(label_smoothing=0.3, regularizer="none")).task
    batch = make_batch()
    result = task.train()(batch)
    targets = torch.full((4, 3), 0.1)  # 0.3 over three classes
    targets[range(4), batch.labels] += 0.7
    expected = -(targets * result["output"].detach().double().log_softmax(-1)).sum(-1).mean()
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert result["ce"].item() == result["loss"].item()


def test_smoothed_and_mixed_labels_match_timm(config: Make) -> None:
    task = ready(config(label_smoothing=0.1, regularizer="none", mix="cutmix")).task
    batch = make_batch()
    np.random.seed(3)
    result = task.train()(batch)
    np.random.seed(3)
    timm_mix = Mixup(mixup_alpha=0, cutmix_alpha=1, label_smoothing=0.1, num_classes=3)
    _, targets = timm_mix(batch.images.float(), batch.labels)
    expected = SoftTargetCrossEntropy()(result["output"], targets)
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_validation_is_not_smoothed(config: Make, recorder: Any) -> None:
    finetune(config(epochs=2), recorder)
    finetune(config(epochs=2, label_smoothing=0.9, overwrite=True), recorder)
    plain, smoothed = recorder.rows[0], recorder.rows[2]
    # All labels nearly alike: the network learns next to nothing, and the loss does not hide it.
    assert smoothed["val_loss"] > plain["val_loss"]


def test_drop_path_matches_timm(config: Make) -> None:
    job = ready(config(drop_path=0.5, regularizer="gta"))
    batch = make_batch(8)
    torch.manual_seed(0)
    output = job.task.train()(batch)["output"]
    torch.manual_seed(0)
    expected = job.target.model(job.target.view(torch.device("cpu"))(batch.images))
    torch.testing.assert_close(output, expected)
    torch.manual_seed(1)
    assert not torch.allclose(job.task(batch)["output"], output)


@pytest.mark.parametrize("source", [None, "vit_tiny_patch16_224@none"])
def test_source_has_no_drop_path(source: str | None, config: Make) -> None:
    size = {} if source is None else {"image_size": 32}
    layers = {"layers": "all" if source is None else "last"}
    job = ready(config(drop_path=0.9, source=source, regularizer={"gta": layers}, **size))
    assert job.task._source is not None
    walker, run = job.task.train()._source
    assert not any(module.training for module in walker.modules())
    view = job.target.view(torch.device("cpu"))(make_batch(8).images)
    torch.manual_seed(0)
    first = run(view).row[-1]
    torch.manual_seed(1)
    assert torch.equal(run(view).row[-1], first)
    if source is None:
        # The weights that it would have had without drop path.
        plain = ready(config(source=source))
        torch.testing.assert_close(plain.task._source[1](view).row[-1], first)


@pytest.mark.parametrize(
    ("source", "warned"),
    [(None, False), ("deit_tiny_patch16_224@none", True), ("vit_tiny_patch16_224@none", True)],
)
def test_source_of_another_make_is_warned_of(
    source: str | None, warned: bool, config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Another architecture, or one of another depth."""
    layers = {"layers": "last"}
    ready(config(source=source, regularizer={"gta": layers}, image_size=32))
    lines = [line for line in caplog.messages if line.startswith("`source` is of another make")]
    assert len(lines) == warned


def test_drop_path_is_not_saved(config: Make, recorder: Any, tmp_path: Path) -> None:
    finetune(config(drop_path=0.5, epochs=1, shots=2), recorder)
    loaded = load_model(str(tmp_path / "run"))
    own = json.loads(read_weights(tmp_path / "run" / "model.safetensors")[1]["kwargs"])
    assert "drop_path_rate" not in own
    assert own == dict(load_model(str(tmp_path / "tiny-model")).kwargs or {})
    assert not any(isinstance(m, DropPath) for m in loaded.model.modules())


def test_resume_continues_drop_path_draws(
    config: Make, recorder: Any, interrupted: Any, tmp_path: Path
) -> None:
    finetune(config(drop_path=0.5, out=tmp_path / "whole"), recorder)
    interrupted(config(drop_path=0.5, out=tmp_path / "cut"))
    whole, resumed = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_gradient_checkpointing_matches(config: Make, recorder: Any, tmp_path: Path) -> None:
    options = {"drop_path": 0.3, "regularizer": ["gta", "bss:0.01"], "epochs": 2}
    finetune(config(out=tmp_path / "a", **options), recorder)
    finetune(config(out=tmp_path / "b", grad_checkpointing=True, **options), recorder)
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
