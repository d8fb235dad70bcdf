"""Tests of augmentation in a run: from options to the views of both networks."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gtacli.finetuning.prepare as setup
import gtacli.training.loop as loop
from gtacli.config.finetune import FinetuneConfig
from gtacli.data.augment.batched import BatchedAugmentation
from gtacli.errors import Interrupted, UsageError
from gtacli.finetuning.run import finetune
from gtacli.models.tap import TappedViT

Make = Callable[..., FinetuneConfig]
ALL = {"auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4, "random_erasing": 0.5}


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(run / "model.safetensors") for run in (one, other))
    return all(torch.equal(a[k], b[k]) for k in a)


def test_resume_with_augmentation(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(config(out=tmp_path / "whole", **ALL), recorder)
    record = json.loads((tmp_path / "whole" / "run.json").read_text())["config"]
    assert {k: record[k] for k in ALL} == ALL
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)

    def stop(epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 2):
            os.kill(os.getpid(), signal.SIGINT)

    recorder.at_step = stop
    with pytest.raises(Interrupted):
        finetune(config(out=tmp_path / "cut", **ALL), recorder)
    recorder.at_step = lambda epoch, batch: None
    finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    assert same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("option", list(ALL))
def test_every_option_changes_the_weights(
    option: str, config: Make, recorder: Any, tmp_path: Path
) -> None:
    finetune(config(epochs=1, out=tmp_path / "plain"), recorder)
    finetune(config(epochs=1, out=tmp_path / "more", **{option: ALL[option]}), recorder)
    assert not same(tmp_path / "plain", tmp_path / "more")


def test_source_and_target_get_the_same_view(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, torch.Tensor]] = []
    forward = TappedViT.forward

    def spy(self: TappedViT, images: torch.Tensor) -> Any:
        seen.append((torch.is_grad_enabled(), images.clone()))
        return forward(self, images)

    monkeypatch.setattr(TappedViT, "forward", spy)
    finetune(config(epochs=1, drift=False, **ALL), recorder)
    targets = [images for gradients, images in seen if gradients]
    sources = [images for gradients, images in seen if not gradients][: len(targets)]
    assert len(targets) == 4
    for target, source in zip(targets, sources, strict=True):
        assert torch.equal(target, source)


def test_unknown_policy_is_rejected_before_writing(
    config: Make, recorder: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="auto_augment: "):
        finetune(config(auto_augment="randm9"), recorder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_batched_augmentation_trains_the_same(
    workers: int, config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU instead of the GPU: the same draws, other rounding."""
    finetune(config(**ALL), recorder)
    original = setup.training_view
    monkeypatch.setattr(
        setup, "training_view", lambda *a: BatchedAugmentation(original(*a), torch.device("cpu"))
    )
    finetune(config(**ALL, overwrite=True, workers=workers), recorder)
    alone, batched = recorder.rows[2], recorder.rows[5]
    for key in ("train_loss", "ce", "reg.gta"):
        assert batched[key] == pytest.approx(alone[key], rel=0.05)
        assert batched[key] != alone[key]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_augmentation_without_gpu(config: Make, recorder: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="augment_device: there is no cuda here"):
        finetune(config(augment_device="cuda"), recorder)
    assert not (tmp_path / "run").exists()
