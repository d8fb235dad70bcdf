"""Tests of the plug-in gta-attention-transfer against a float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gta_attention_transfer.options import AttentionTransferOptions
from gta_attention_transfer.regularizer import AttentionTransfer
from gtacli.errors import UsageError
from gtacli.testing.inputs import drawn_images, tiny_vit
from gtacli.testing.step import Step


def logits(model: Any, images: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    """Return each block's (B, H, T, T) in float64, by timm's modules and a plain product."""
    model = model.double().eval()
    found = []
    x = model._pos_embed(model.patch_embed(images.double()))
    for block in model.blocks:
        heads = block.attn.num_heads
        qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, -1)).detach().numpy()
        q, k = (np.moveaxis(qkv[:, :, i], 1, 2) for i in (0, 1))
        found.append(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
        x = block(x)
    model.float()
    return found


def softmax(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(source: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> float:
    return float(-(source * np.log(target)).sum(-1).mean())


@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 3}, {"class_token": False}])
@pytest.mark.parametrize(
    ("layers", "numbers"), [("auto", (0, 1, 2)), ("last", (2,)), ("0,-1", (0, 2))]
)
def test_value_against_float64(
    changes: dict[str, Any], layers: str, numbers: tuple[int, ...]
) -> None:
    if changes.get("class_token") is False:
        changes = {**changes, "global_pool": "avg"}
    target, source = tiny_vit(0, depth=4, **changes), tiny_vit(1, depth=4, **changes)
    images = drawn_images(2)
    step = Step(AttentionTransfer, {"layers": layers}, target.eval(), source)
    penalty = step.penalty(images).item()
    if layers != "auto":
        numbers = tuple(n if n < 2 else 3 for n in numbers)  # of four blocks
    pairs = [
        (softmax(logits(source, images)[n]), softmax(logits(target, images)[n])) for n in numbers
    ]
    expected = sum(cross_entropy(s, t) for s, t in pairs)
    assert penalty == pytest.approx(expected, rel=1e-5)
    least = sum(cross_entropy(s, s) for s, _ in pairs)
    divergence = step.part.metrics()["divergence"].item()
    assert divergence == pytest.approx(expected - least, rel=1e-3)


def test_the_source_is_the_minimum() -> None:
    step = Step(AttentionTransfer, {}, tiny_vit(0), tiny_vit(0))
    gradients = step.gradients()
    largest = max(g.abs().max().item() for g in gradients.values())
    assert largest < 1e-6
    assert step.part.metrics()["divergence"].item() == pytest.approx(0, abs=1e-6)


def test_the_last_quarter_is_free() -> None:
    part = AttentionTransfer(AttentionTransferOptions(), tiny_vit(0, depth=8), tiny_vit(1, depth=8))
    assert part.needs.target.layers == (0, 1, 2, 3, 4, 5)
    assert part.needs.source is not None
    assert part.needs.source.output is False
    assert part.strength(0.5) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 4}, "same heads in both networks, but the model has 3 and the source 4$"),
        ({"reg_tokens": 2}, "same prefix tokens"),
        ({"patch_size": 4}, "same patches"),
        ({"depth": 2}, "the model has 3 blocks, the source 2"),
    ],
)
def test_other_networks(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AttentionTransfer(AttentionTransferOptions(), tiny_vit(0), tiny_vit(1, **changes))
