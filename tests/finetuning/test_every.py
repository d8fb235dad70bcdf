"""Tests of `every`: a penalty in some steps only, which counts as many times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.loader import Batch
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.models.tap import TappedViT

Make = Callable[..., FinetuneConfig]


def every(n: int, **options: Any) -> dict[str, dict[str, Any]]:
    return {"gta": {"every": n, **options}}


def gradient(config: FinetuneConfig, update: int) -> torch.Tensor:
    """Return the gradient of the first block's projection at a step, from the second weights on."""
    job = prepare(config)
    model: Any = job.target.model
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():  # else the target equals its source and there is no penalty
        model.blocks[0].attn.qkv.weight += 0.1 * torch.randn(
            model.blocks[0].attn.qkv.weight.shape, generator=rng
        )
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=rng, dtype=torch.uint8)
    batch = Batch(images, torch.tensor([0, 1, 0, 1]), torch.arange(4), torch.zeros(4, 5))
    job.task.train()
    job.task.update = update
    job.task(batch)["loss"].backward()
    return model.blocks[0].attn.qkv.weight.grad.clone()


def test_mean_gradient_is_that_of_a_penalty_in_every_step(config: Make) -> None:
    always = gradient(config(), 0)
    three = [gradient(config(regularizer=every(3), lam=0.1), update) for update in (3, 4, 5)]
    plain = gradient(config(lam=0), 0)
    assert torch.allclose(sum(three) / 3, always, rtol=1e-4, atol=1e-7)  # type: ignore[operator]
    assert torch.equal(three[1], plain)
    assert not torch.allclose(three[0], always)


def test_source_runs_in_steps_with_a_penalty(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[TappedViT] = []
    forward = TappedViT.forward

    def spy(self: TappedViT, images: torch.Tensor) -> Any:
        if not torch.is_grad_enabled():
            ran.append(self)
        return forward(self, images)

    monkeypatch.setattr(TappedViT, "forward", spy)
    options = {"drift": False, "linear_probe": False, "hold_out": "none", "lam": 0.1}
    counts = []
    for n in (1, 2):
        ran.clear()
        finetune(config(regularizer=every(n), overwrite=True, **options), recorder)
        sources = Counter(map(id, ran))
        counts.append(sources.most_common(1)[0][1])
    assert counts[0] > counts[1] >= counts[0] // 2


def test_logged_penalty_is_the_mean_over_its_steps(config: Make, recorder: Any) -> None:
    # The weights do not move, so every step has the penalty of the same two networks.
    fixed = {"lr": 1e-12, "lam": 0.1, "epochs": 2, "source_size": 48, "overwrite": True}
    finetune(config(**fixed), recorder)
    finetune(config(regularizer=every(2), **fixed), recorder)
    always, rarely = recorder.rows[1], recorder.rows[3]
    assert rarely["reg.gta"] == pytest.approx(always["reg.gta"], rel=0.2)
    assert "due.gta" not in rarely


def test_an_epoch_without_a_penalty_says_null(config: Make, recorder: Any) -> None:
    finetune(config(regularizer=every(100), lam=0.1, epochs=2), recorder)
    assert recorder.rows[0]["reg.gta"] is not None
    assert recorder.rows[1]["reg.gta"] is None


def test_resumed_run_keeps_its_rhythm(
    config: Make, interrupted: Callable[..., dict[str, Any]], recorder: Any, tmp_path: Path
) -> None:
    finetune(config(regularizer=every(2), lam=0.1, out=tmp_path / "whole"), recorder)
    interrupted(config(regularizer=every(2), lam=0.1, out=tmp_path / "parts"), 1, 1)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(a[k], b[k]) for k in a)
