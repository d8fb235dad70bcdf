"""Tests of the plug-in gta-delta, installed by pip, against a float64 reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from gtacli.config.base import build
from gtacli.errors import UsageError
from gtacli.models import TappedViT
from gtacli.registry import REGULARIZERS
from gtacli.regularizers import StepOutputs

pytestmark = pytest.mark.usefixtures("delta")

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2}


def vit(seed: int, **changes: Any) -> Any:
    torch.manual_seed(seed)
    options = {**SMALL, "num_classes": 4, **changes}
    return timm.models.vision_transformer.VisionTransformer(**options).eval()


def regularizer(target: Any, source: Any, **options: Any) -> Any:
    Delta = REGULARIZERS.load("delta")
    return Delta(build(Delta.Options, options, "regularizer.delta"), target, source)


def step(part: Any, target: Any, source: Any, images: torch.Tensor) -> StepOutputs:
    seen = []
    for model, request in ((target, part.needs.target), (source, part.needs.source)):
        tapped = TappedViT(model, request)
        seen.append(tapped.unpack(tapped(images), images.shape))
    return StepOutputs(*seen)


def tokens(model: Any, images: torch.Tensor, layer: int) -> np.ndarray[Any, Any]:
    """Return patch tokens after block `layer` in float64, by the model's own forward pass."""
    doubled = model.double()
    [found] = doubled.forward_intermediates(
        images.double(), indices=[layer], output_fmt="NLC", intermediates_only=True
    )
    array: np.ndarray[Any, Any] = found.detach().numpy()
    model.float()
    return array


def reference(target: Any, source: Any, images: Any, layers: Any, weights: Any) -> float:
    blocks = []
    for layer in layers:
        t, s = tokens(target, images, layer), tokens(source, images, layer)
        share = weights[layer] / weights[layer].sum() * t.shape[-1]
        total = 0.0
        for image in range(t.shape[0]):
            for patch in range(t.shape[1]):
                total += float((share * (t[image, patch] - s[image, patch]) ** 2).sum())
        blocks.append(total / (2 * t.shape[0] * t.shape[1]))
    return float(np.mean(blocks))


@pytest.mark.parametrize(
    ("layers", "numbers"), [("all", (0, 1, 2)), ("last", (2,)), ("-1,-3", (0, 2)), ([1], (1,))]
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("extra", [{}, {"reg_tokens": 3}])
def test_value_against_float64(
    tmp_path: Path, layers: Any, numbers: tuple[int, ...], weighted: bool, extra: dict[str, Any]
) -> None:
    target, source = vit(0, **extra), vit(1, **extra)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    weights = {i: torch.rand(12, generator=torch.Generator().manual_seed(i)) for i in range(3)}
    options: dict[str, Any] = {"layers": layers}
    if weighted:
        save_file({str(i): w for i, w in weights.items()}, tmp_path / "w.safetensors")
        options["channel_weights"] = str(tmp_path / "w.safetensors")
    part = regularizer(target, source, **options)
    got = part.penalty(step(part, target, source, images)).item()
    used = {i: w.double().numpy() if weighted else np.ones(12) for i, w in weights.items()}
    assert got == pytest.approx(reference(target, source, images, numbers, used), rel=1e-5)


def test_gradient_against_finite_differences() -> None:
    target, source = vit(0), vit(1)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    part = regularizer(target, source)
    part.penalty(step(part, target, source, images)).backward()
    weight = target.blocks[1].mlp.fc2.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    analytic = (weight.grad * direction).sum().item()
    values = []
    for sign in (1, -1):
        moved = vit(0)
        with torch.no_grad():
            moved.blocks[1].mlp.fc2.weight += sign * 1e-3 * direction
        values.append(reference(moved, source, images, range(3), [np.ones(12)] * 3))
    assert analytic == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-3)


def test_zero_at_the_source_and_source_pass_ends_early() -> None:
    target, source = vit(0), vit(0)
    part = regularizer(target, source, layers="0")
    assert part.needs.source.output is False
    assert part.needs.target.hidden == part.needs.source.hidden == (0,)
    assert part.penalty(step(part, target, source, torch.randn(1, 3, 32, 32))).item() == 0


def test_strength_is_lam() -> None:
    assert regularizer(vit(0), vit(1)).strength(0.5) == 0.01
    assert regularizer(vit(0), vit(1), lam=0.3).strength(0.5) == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1}, r"regularizer.delta.lam: must be at least 0"),
        ({"layer": "all"}, "unknown key 'layer'; did you mean 'layers'"),
        ({"layers": "some"}, "layers: .*must be all, last, or block numbers"),
        ({"layers": "99"}, "there is no block 99"),
        ({"channel_weights": "nowhere.safetensors"}, "cannot be read"),
    ],
)
def test_invalid_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        regularizer(vit(0), vit(1), **options)


def test_mismatched_networks() -> None:
    with pytest.raises(UsageError, match="source: Delta needs a source"):
        regularizer(vit(0), None)
    with pytest.raises(UsageError, match=r"source: .* same width .* has 12 and the source 24"):
        regularizer(vit(0), vit(1, embed_dim=24))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"0": torch.ones(12)}, "has no tensor '1'"),
        ({str(i): torch.ones(5) for i in range(3)}, r"has shape \(5,\) for block 0, not \(12,\)"),
        ({str(i): -torch.ones(12) for i in range(3)}, "negative or only zero weights"),
    ],
)
def test_invalid_channel_weights(
    tmp_path: Path, stored: dict[str, torch.Tensor], message: str
) -> None:
    save_file(stored, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=message):
        regularizer(vit(0), vit(1), channel_weights=str(tmp_path / "w.safetensors"))


def test_measured_weights_favor_the_important_channel() -> None:
    from gta_delta.weights import measure_weights  # type: ignore[import-not-found,unused-ignore]

    model = vit(0)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.blocks[-1].mlp.fc2.weight[5] *= 30
        labels = model(images).argmax(-1)
    weights = measure_weights(model, [(images, labels)], -1)
    assert weights.sum().item() == pytest.approx(1)
    assert weights.argmax().item() == 5
    assert not model.blocks[-1]._forward_hooks
