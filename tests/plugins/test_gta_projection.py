"""Tests of the plug-in gta-projection against its formulas in float64, and of a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gta_projection.ftp import FTP
from gta_projection.spd import SPD
from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.run import finetune
from gtacli.registry import OPTIMIZERS
from gtacli.testing.optimizer import Training

Array = np.ndarray[Any, Any]
STEPS, LR = 8, 1e-2


class Adam:
    """Adam's change of one tensor in float64."""

    def __init__(self) -> None:
        self.mean: Any = 0.0
        self.square: Any = 0.0
        self.step = 0

    def change(self, gradient: Any, lr: float = LR, betas: Any = (0.9, 0.999)) -> Any:
        self.step += 1
        self.mean = betas[0] * self.mean + (1 - betas[0]) * gradient
        self.square = betas[1] * self.square + (1 - betas[1]) * gradient**2
        mean, square = (
            moment / (1 - beta**self.step)
            for moment, beta in zip((self.mean, self.square), betas, strict=True)
        )
        return lr * mean / (np.sqrt(square) + 1e-8)


def ftp(start: Array, gradients: list[Array], k: float) -> Array:
    """Return the weights after the steps, row by row as the paper has it."""
    adam, radius = Adam(), Adam()
    radius.step = 1  # as in the official code, the first of its steps is the second of all
    w, gamma, last = start.copy(), 1e-8, None
    for gradient in gradients:
        distance = w - adam.change(gradient) - start
        rows = distance.reshape(len(distance) if distance.ndim > 1 else 1, -1)
        norms = np.abs(rows).sum(1) + 1e-8
        if last is not None:
            slopes = [
                (g * d).sum() / n
                for g, d, n in zip(gradient.reshape(rows.shape), *last, strict=True)
            ]
            slope = sum(slopes)
            gamma -= radius.change(slope * k if slope > 0 else slope)
            gamma = min(max(gamma, 1e-8), norms.max())
        last = (rows, norms)
        kept = [row * min(1, gamma / norm) for row, norm in zip(rows, norms, strict=True)]
        w = start + np.array(kept).reshape(start.shape)
    return w


def spd(start: Array, gradients: list[Array], strength: float) -> Array:
    adam, w = Adam(), start.copy()
    for gradient in gradients:
        new = w - adam.change(gradient)
        before, after = np.linalg.norm(w - start), np.linalg.norm(new - start)
        if (gradient * (w - start)).sum() > 0 and after > before:
            new = new - strength * (1 - before / after) * (new - start)
        w = new
    return w


def run(part: Any, options: dict[str, Any], start: torch.Tensor, gradients: Any) -> torch.Tensor:
    w = torch.nn.Parameter(start.clone())
    group = {"params": [w], "weight_decay": 0.0, "lr_scale": 1.0, "head": False}
    optimizer = part(part.Options(**options)).create([group], LR, 0.0)
    for gradient in gradients:
        w.grad = gradient.clone()
        optimizer.step()
    return w.detach()


@pytest.mark.parametrize("shape", [(5, 4), (6,), (3, 2, 2, 2)])
@pytest.mark.parametrize(
    ("part", "formula", "name", "value"),
    [
        (FTP, ftp, "k", 1.0),
        (FTP, ftp, "k", 0.5),
        (SPD, spd, "strength", 1.0),
        (SPD, spd, "strength", 0.3),
    ],
)
def test_steps_against_float64(
    part: Any, formula: Any, name: str, value: float, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(*shape, generator=generator)
    gradients = [torch.randn(*shape, generator=generator) for _ in range(STEPS)]
    found = run(part, {name: value}, start, gradients)
    expected = formula(start.double().numpy(), [g.double().numpy() for g in gradients], value)
    torch.testing.assert_close(found, torch.tensor(expected).float(), rtol=1e-4, atol=1e-6)


def test_spd_without_strength_is_adamw() -> None:
    ours = Training(SPD, {"strength": 0.0})
    theirs = Training(OPTIMIZERS.load("adamw"), {})
    for _ in range(3):
        ours.step()
        theirs.step()
    for name, value in ours.weights().items():
        if "qkv" not in name:  # the keys' bias has no gradient but rounding errors
            torch.testing.assert_close(value, theirs.weights()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", [FTP, SPD])
def test_the_classifier_is_free_and_the_rest_stays_near(part: Any) -> None:
    ours, plain = Training(part, {}), Training(OPTIMIZERS.load("adamw"), {})
    start = ours.weights()
    for _ in range(10):
        ours.step()
        plain.step()

    def distance(training: Training, name: str) -> float:
        moved = training.weights()
        return sum((moved[n] - start[n]).norm().item() for n in start if n.startswith(name))

    assert distance(ours, "head") > 0.5 * distance(plain, "head")
    assert distance(ours, "blocks") < 0.95 * distance(plain, "blocks")


@pytest.mark.parametrize("part", [FTP, SPD])
def test_a_run_resumes_bit_for_bit(
    part: Any, tiny_model: Path, tiny_data: Path, recorder: Any, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] == 1:
            raise Killed

    config = {
        "model": str(tiny_model),
        "data": str(tiny_data),
        "device": "cpu",
        "workers": 0,
        "batch_size": 8,
        "regularizer": {},
        "linear_probe": False,
        "optimizer": "near",
        "optimizers": {"near": {"beta2": 0.99}},
        "epochs": 3,
        "warmup": 0.0,
    }
    with OPTIMIZERS.registered("near", part):
        finetune(FinetuneConfig(**config, out=tmp_path / "whole"), recorder)
        recorder.at_epoch = kill
        with pytest.raises(Killed):
            finetune(FinetuneConfig(**config, out=tmp_path / "cut"), recorder)
        recorder.at_epoch = lambda row: None
        finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    whole, cut = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
