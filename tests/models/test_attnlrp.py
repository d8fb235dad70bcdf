"""Tests of AttnLRP against its rules, written one by one, and of conservation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.models import attnlrp as module
from gtacli.models.attnlrp import attnlrp

from .test_tap import make


class Propagation:
    """The paper's rules with explicit relevance, layer by layer.

    Attributes:
        absorbed: the relevance that biases have taken so far.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma, self.absorbed = gamma, 0.0

    def linear(self, layer: Any, x: Tensor, relevance: Tensor) -> Tensor:
        z = torch.einsum("...i,ji->...ij", x, layer.weight)
        bias = layer.bias.expand(*x.shape[:-1], -1)
        out = z.sum(-2) + bias
        z = z + self.gamma * torch.where(z * out.unsqueeze(-2) > 0, z, 0)
        bias = bias + self.gamma * torch.where(bias * out > 0, bias, 0)
        share = relevance / (z.sum(-2) + bias)
        self.absorbed += float((bias * share).sum())
        return (z * share.unsqueeze(-2)).sum(-1)

    def norm(self, layer: Any, x: Tensor, relevance: Tensor) -> Tensor:
        n = x.shape[-1]
        centering = torch.eye(n, dtype=x.dtype) - 1 / n
        std = (x.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt()
        z = torch.einsum("...i,ij->...ij", x / std, centering * layer.weight)
        share = relevance / (z.sum(-2) + layer.bias)
        self.absorbed += float((layer.bias * share).sum())
        return (z * share.unsqueeze(-2)).sum(-1)

    def softmax(self, x: Tensor, relevance: Tensor) -> Tensor:
        s = x.softmax(-1)
        slopes = torch.diag_embed(s) - s.unsqueeze(-1) * s.unsqueeze(-2)
        taylor = slopes @ x.unsqueeze(-1)
        self.absorbed += float(((s - taylor[..., 0]) / s * relevance).sum())
        return (x.unsqueeze(-2) * slopes / s.unsqueeze(-1) * relevance.unsqueeze(-1)).sum(-2)

    def product(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Propagate through a (..., i, k) times b (..., k, j): halves to both."""
        z = torch.einsum("...ik,...kj->...ikj", a, b)
        shares = z / (2 * z.sum(-2, keepdim=True)) * relevance.unsqueeze(-2)
        return shares.sum(-1), shares.sum(-3)

    def block(self, block: Any, x: Tensor, relevance: Callable[[Tensor], Tensor]) -> Tensor:
        """Run a block, then return the relevance of its input, given that of its output."""
        heads = block.attn.num_heads
        h = block.norm1(x)
        qkv = block.attn.qkv(h)
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) * block.attn.scale
        mixed = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        attended = block.attn.proj(mixed)
        middle = x + attended
        h2 = block.norm2(middle)
        hidden = block.mlp.fc1(h2)
        moved = block.mlp.fc2(F.gelu(hidden))
        given = relevance(middle + moved)
        share = given / (middle + moved)
        r = self.linear(block.mlp.fc2, F.gelu(hidden), moved * share)
        r = self.norm(block.norm2, middle, self.linear(block.mlp.fc1, h2, r))
        of_middle = middle * share + r
        share = of_middle / middle
        r = self.linear(block.attn.proj, mixed, attended * share)
        r = r.unflatten(-1, (heads, -1)).transpose(1, 2)
        of_weights, of_v = self.product(logits.softmax(-1), v, r)
        of_q, of_k = self.product(q, k.transpose(-2, -1), self.softmax(logits, of_weights))
        of_qkv = torch.stack((of_q, of_k.transpose(-2, -1), of_v)).permute(1, 3, 0, 2, 4)
        r = self.norm(block.norm1, x, self.linear(block.attn.qkv, h, of_qkv.flatten(2)))
        return x * share + r


def propagate(model: Any, x: Tensor, gamma: float, target: int) -> tuple[Tensor, float, Tensor]:
    """Return the relevance of the tokens before the first block, what biases took, the logits."""
    rules = Propagation(gamma)
    scores: list[Tensor] = []

    def relevance_after(layer: int) -> Callable[[Tensor], Tensor]:
        def relevance(x: Tensor) -> Tensor:
            if layer < len(model.blocks):
                return rules.block(model.blocks[layer], x, relevance_after(layer + 1))
            normed = model.norm(x)
            scores.append(model.head(normed[:, 0]))
            wanted = torch.zeros_like(scores[0])
            wanted[:, target] = scores[0][:, target]
            of_normed = torch.zeros_like(x)
            kept = model.head.weight[target] * normed[:, 0], model.head.bias[target]
            head = nn.Linear(x.shape[-1], 1).to(x)
            head.weight.data, head.bias.data = model.head.weight[[target]], kept[1][None]
            of_normed[:, 0] = rules.linear(head, normed[:, 0], wanted[:, [target]])
            return rules.norm(model.norm, x, of_normed)

        return relevance

    return relevance_after(0)(x), rules.absorbed, scores[0]


@pytest.mark.parametrize("gamma", [0.0, 0.3])
@torch.no_grad()
def test_relevance_equals_the_rules_and_is_conserved(gamma: float) -> None:
    model, images = make("plain")
    model.double()
    images = images.double()
    patches = model.patch_embed(images)
    tokens = model._pos_embed(patches)
    expected, absorbed, logits = propagate(model, tokens, gamma, 3)
    torch.testing.assert_close(expected.sum().item() + absorbed, logits[:, 3].sum().item())
    # Of a token's relevance, its position has a part.
    content = (expected[:, 1:] * patches / tokens[:, 1:]).sum(-1)
    got = attnlrp(model, images, 3, gamma)
    torch.testing.assert_close(got.flatten(1), content, atol=1e-12, rtol=1e-6)


CONSERVED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": lambda x, y: F.gelu(x),
    "silu": lambda x, y: F.silu(x),
    "product": lambda x, y: x * y,
    "gated": lambda x, y: F.silu(x) * y,
    "quick gelu": lambda x, y: x * torch.sigmoid(1.7 * x),
    "matrix product": lambda x, y: x @ y.transpose(-2, -1),
    "layer norm": lambda x, y: F.layer_norm(x, (6,), y[0, 0].detach()),
    "rms norm": lambda x, y: F.rms_norm(x, (6,), y[0, 0].detach()),
    "linear": lambda x, y: F.linear(x, y[0].detach()),
}


@pytest.mark.parametrize("name", CONSERVED)
def test_each_rule_conserves_relevance(name: str) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x, y = (leaf * 1 for leaf in leaves)
    with module._Rules(0.2):
        out = CONSERVED[name](x, y)
    given = torch.randn_like(out)
    gradients = torch.autograd.grad(out, (x, y), given, allow_unused=True)
    parts = [(a * g).sum() for a, g in zip((x, y), gradients, strict=True) if g is not None]
    torch.testing.assert_close(sum(parts), (out * given).sum())
    assert torch.equal(out, CONSERVED[name](x, y)) or "norm" in name
    torch.testing.assert_close(out, CONSERVED[name](x, y))
