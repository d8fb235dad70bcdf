"""Tests of the moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gtacli import load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.run import finetune

Make = Callable[..., FinetuneConfig]
Weights = dict[str, torch.Tensor]


def average(steps: list[Weights], decay: float) -> Weights:
    """Average by recursion, with a decay of 1 - n^(-2/3), at most `decay`.

    This is the warm-up of timm and k-diffusion.
    """
    mean = steps[0]
    for n, weights in enumerate(steps[1:], 2):
        d = min(decay, 1 - n ** (-2 / 3))
        mean = {k: d * mean[k] + (1 - d) * weights[k] for k in mean}
    return mean


@pytest.mark.parametrize("accumulate", [1, 2])
def test_average_is_saved(
    accumulate: int, config: Make, recorder: Any, passed: list[Weights], tmp_path: Path
) -> None:
    # Without validation the last epoch counts: 6 images in 3 batches.
    options = {"shots": 2, "batch_size": 2, "accumulate": accumulate, "lr": 1e-2}
    finetune(config(ema=0.7, **options), recorder)
    kept = load_file(tmp_path / "run" / "model.safetensors")
    assert len(passed) == (9 if accumulate == 1 else 6)
    expected = average(passed, 0.7)
    assert set(kept) == set(expected)
    for name, value in kept.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert (kept["blocks.0.mlp.fc1.weight"] - passed[-1]["blocks.0.mlp.fc1.weight"]).abs().max() > 0


def test_average_is_validated_and_tested(
    config: Make, recorder: Any, jobs: list[Any], tmp_path: Path
) -> None:
    summary = finetune(config(ema=0.9, epochs=6, lr=3e-3), recorder)
    loaded = load_model(str(tmp_path / "run"))
    for part, count, figure in (("test", 12, "test_top1"), ("train", 3, "val_top1")):
        chosen = {r.key for r in jobs[0].split.val} if part == "train" else None
        hits = 0
        for image in sorted((tmp_path / "tiny-data" / part).rglob("*.png")):
            if chosen is None or f"{part}/{image.parent.name}/{image.name}" in chosen:
                with torch.no_grad():
                    logits = loaded.model(loaded.preprocess(Image.open(image))[None])
                hits += loaded.classes[int(logits.argmax())] == image.parent.name
        assert hits / count == pytest.approx(summary[figure])


def test_resume_within_an_epoch(
    config: Make, recorder: Any, interrupted: Any, tmp_path: Path
) -> None:
    finetune(config(out=tmp_path / "whole", ema=0.9), recorder)
    interrupted(config(out=tmp_path / "cut", ema=0.9))
    states = [
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "cut")
    ]
    for part in ("model", "state_dict_ema"):
        a, b = (state[part] for state in states)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_source_has_no_average(config: Make, recorder: Any, jobs: list[Any]) -> None:
    finetune(config(ema=0.9, epochs=1), recorder)
    job = jobs[0]
    target = dict(job.target.model.named_parameters())
    # Of every tensor the task holds the trained one and its average, and nothing else.
    assert len(list(job.task.parameters())) == 2 * len(target)
    assert job.evaluated.model is not job.target.model
    assert dict(job.evaluated.model.named_parameters()).keys() == target.keys()


@pytest.mark.slow
def test_compiled(config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **k: original(m, **{**k, "backend": "eager"}))
    finetune(config(epochs=1, ema=0.5), recorder)
    torch._dynamo.reset()
    finetune(config(epochs=1, ema=0.5, compile=True, overwrite=True), recorder)
    plain, compiled = recorder.rows
    assert compiled["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-3)
