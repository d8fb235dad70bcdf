"""Tests of the transformer attribution against its published rules, written one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.models.chefer import _Relevance, chefer

from .test_tap import make


def positive(layer: Any, x: Tensor, relevance: Tensor) -> Tensor:
    """Propagate through a linear layer by the positive contributions."""
    z = torch.einsum("...i,ji->...ij", x, layer.weight).clamp_min(0)
    return (z / z.sum(-2, keepdim=True) * relevance.unsqueeze(-2)).sum(-1)


def split(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Propagate through a sum, of one image."""
    parts = a / (a + b) * relevance, b / (a + b) * relevance
    sums = [part.sum() for part in parts]
    sizes = [abs(s) / (abs(sums[0]) + abs(sums[1])) * relevance.sum() for s in sums]
    first, second = (p * size / s for p, size, s in zip(parts, sizes, sums, strict=True))
    return first, second


def product(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    z = torch.einsum("...ik,...kj->...ikj", a, b)
    shares = z / z.sum(-2, keepdim=True) * relevance.unsqueeze(-2) / 2
    return shares.sum(-1), shares.sum(-3)


def through_block(block: Any, x: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the relevance of a block's input and of its attention."""
    heads = block.attn.num_heads
    h = block.norm1(x)
    q, k, v = block.attn.qkv(h).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * block.attn.scale).softmax(-1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    attended = block.attn.proj(mixed)
    h2 = block.norm2(x + attended)
    moved = block.mlp(h2)
    direct, r = split(x + attended, moved, relevance)
    r = positive(block.mlp.fc2, F.gelu(block.mlp.fc1(h2)), r)
    relevance = direct + positive(block.mlp.fc1, h2, r)
    direct, r = split(x, attended, relevance)
    r = positive(block.attn.proj, mixed, r).unflatten(-1, (heads, -1)).transpose(1, 2)
    of_weights, of_v = product(weights, v, r)
    of_q, of_k = product(q, k.transpose(-2, -1), of_weights)
    of_qkv = torch.stack((of_q, of_k.transpose(-2, -1), of_v)).permute(1, 3, 0, 2, 4)
    return direct + positive(block.attn.qkv, h, of_qkv.flatten(2)), of_weights


def gradients(model: Any, image: Tensor, target: int) -> list[Tensor]:
    """Return the gradient of the logit with respect to each block's attention, by timm."""
    caught: list[Tensor] = []
    hooks = []
    for block in model.blocks:
        block.attn.fused_attn = False
        hook = block.attn.attn_drop.register_forward_hook(lambda m, i, o: caught.append(o))
        hooks.append(hook)
    score = model(image)[0, target]
    for block, hook in zip(model.blocks, hooks, strict=True):
        hook.remove()
        block.attn.fused_attn = True
    return list(torch.autograd.grad(score, caught))


def test_attribution_equals_the_published_rules() -> None:
    model, images = make("plain")
    model.double()
    images = images.double()
    for number in range(2):
        image, target = images[number : number + 1], 3
        slopes = gradients(model, image, target)
        with torch.no_grad():
            inputs = [model._pos_embed(model.patch_embed(image))]
            for block in model.blocks:
                inputs.append(block(inputs[-1]))
            relevance = torch.zeros_like(inputs[-1])
            normed = model.norm(inputs[-1])[:, 0]
            z = (normed * model.head.weight[target]).clamp_min(0)
            relevance[:, 0] = z / z.sum()
            rolled = torch.eye(inputs[0].shape[1], dtype=torch.float64)
            for i in reversed(range(len(model.blocks))):
                relevance, of_weights = through_block(model.blocks[i], inputs[i], relevance)
                rolled = rolled + rolled @ (slopes[i] * of_weights)[0].clamp_min(0).mean(0)
        got = chefer(model, images, target)[number]
        torch.testing.assert_close(got.flatten(), rolled[0, 1:], atol=1e-12, rtol=1e-3)


@pytest.mark.parametrize("name", ["linear", "sum", "product", "mean", "norm", "attention"])
def test_each_rule_conserves_relevance(name: str) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x, y = (leaf * 1 for leaf in leaves)
    with _Relevance():
        out = {
            "linear": lambda: F.linear(x, torch.randn(4, 6, dtype=x.dtype)),
            "sum": lambda: x + y,
            "product": lambda: x * y,
            "mean": lambda: x[:, 1:].mean(1),
            "norm": lambda: F.layer_norm(x, (6,)),
            "attention": lambda: F.scaled_dot_product_attention(x[None], x[None], y[None]),
        }[name]()
    given = torch.rand_like(out)
    parts = torch.autograd.grad(out, (x, y), given, allow_unused=True)
    torch.testing.assert_close(sum(p.sum() for p in parts if p is not None), given.sum())
