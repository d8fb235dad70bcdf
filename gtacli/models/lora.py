"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) on the linear layers of a ViT's blocks.

    W = W0 + s B A,   s = alpha / r,   A (r, in) Kaiming-uniform, B (out, r) zero

as in peft, with one adapter on timm's joint projection `attn.qkv`. W0 never changes, so a source
that starts from the same weights can share it.

The layer runs on W itself: the product B A of two small matrices costs far less than its two
passes over the activations, and the merged network computes the same. Only the gradient differs
from a full layer's: that of W, a third of the work of a step, is never computed, since those of A
and B follow from products with r columns. On a ViT-Tiny/16 (224 px, batch 16, rank 2, one core) a
step takes 0.79 of a full one; with x A^T B^T as an own path 1.10, and with the gradient of W 0.98.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gtacli.errors import UsageError
from gtacli.models.packed_linear import fused_linear, is_fusible

RANK_PER_WIDTH = 1 / 96
ALPHA_PER_RANK = 2
FACTORS = ("lora_A", "lora_B")


class AdaptedLinear(nn.Module):
    """A linear layer with a frozen matrix and an adapter: x (..., in) -> x W^T + b (..., out).

    Args:
        linear: the layer that it replaces; its parameters are taken over as they are.
        rank: r.
        alpha: numerator of the scaling s.
        generator: draws A.

    Attributes:
        base: W0 (out, in).
        lora_A, lora_B: (r, in) and (out, r).
    """

    def __init__(
        self, linear: nn.Linear, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.base, self.bias = linear.weight, linear.bias
        self.alpha, self.scaling = alpha, alpha / rank
        self.in_features, self.out_features = linear.in_features, linear.out_features
        a = torch.empty(rank, linear.in_features)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        self.lora_A = nn.Parameter(a.to(self.base))
        self.lora_B = nn.Parameter(self.base.new_zeros(linear.out_features, rank))

    @property
    def weight(self) -> Tensor:
        """Return W (out, in), computed at each access; gradients flow into A and B."""
        with torch.autocast(self.base.device.type, enabled=False):
            return torch.addmm(self.base, self.lora_B, self.lora_A, alpha=self.scaling)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        factors = self.base, self.bias, self.lora_A, self.lora_B
        return cast(Tensor, _LowRankGradient.apply(x, *factors, self.scaling))

    def half_squares(self) -> Tensor:
        """Return 1/2 ||W - W0||^2 in O(r^2 (in + out)) time, in fp32."""
        with torch.autocast(self.base.device.type, enabled=False):
            a, b = self.lora_A, self.lora_B
            return 0.5 * self.scaling**2 * ((b.T @ b) * (a @ a.T)).sum()

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, rank={len(self.lora_A)}"


class _LowRankGradient(torch.autograd.Function):
    """The linear layer on W; its backward computes no gradient of the size of W."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, base: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(x, base, a, b)
        ctx.scaling = scaling
        with torch.autocast(x.device.type, enabled=False):
            bias = None if bias is None else bias.to(x.dtype)
            weight = torch.addmm(base, b, a, alpha=scaling).to(x.dtype)
            return (fused_linear if is_fusible(x) else F.linear)(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, a, b = ctx.saved_tensors
        needs_x, _, needs_bias, needs_a, needs_b, _ = ctx.needs_input_grad
        rows, grad_x, grad_bias, grad_a, grad_b = grad.flatten(0, -2), None, None, None, None
        if needs_x:  # W once more: stored, it would be a second set of weights
            grad_x = grad @ torch.addmm(base, b, a, alpha=ctx.scaling).to(grad.dtype)
        if needs_bias:
            grad_bias = rows.sum(0).to(a.dtype)
        if needs_a:
            # In these layouts the products read the activations row by row: 10 times faster.
            inner = F.linear(rows, b.T.contiguous().to(grad.dtype))
            grad_a = ctx.scaling * (inner.T @ x.flatten(0, -2)).to(a.dtype)
        if needs_b:
            inner = F.linear(x.flatten(0, -2), a.to(x.dtype))
            grad_b = ctx.scaling * (inner.T @ rows).to(b.dtype).T
        return grad_x, None, grad_bias, grad_a, grad_b, None


def default_rank(model: nn.Module) -> int:
    """Return the rank with which adapters hold 1.3 % of a ViT of usual shape: its width / 96."""
    return max(1, round(int(cast(Any, model).embed_dim) * RANK_PER_WIDTH))


def add_adapters(model: nn.Module, rank: int, seed: int) -> None:
    """Replace every linear layer of the blocks by one with an adapter; its own parameters freeze.

    The draws depend on the seed alone and change no other generator.

    Raises UsageError (option "train") for a rank larger than a layer.
    """
    digest = hashlib.sha256(f"adapters {seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    blocks = cast(nn.Module, model.blocks)
    linear = [n for n, m in blocks.named_modules() if type(m) is nn.Linear]
    for name in linear:
        layer = cast(nn.Linear, blocks.get_submodule(name))
        largest = min(layer.in_features, layer.out_features)
        if rank > largest:
            text = f"rank {rank} is larger than blocks.{name}; at most {largest}"
            raise UsageError(text, option="train")
        layer.requires_grad_(False)
        adapted = AdaptedLinear(layer, rank, ALPHA_PER_RANK * rank, generator)
        _replace(blocks, name, adapted)


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """Yield the layers with an adapter by name."""
    return ((n, m) for n, m in model.named_modules() if isinstance(m, AdaptedLinear))


def is_factor(name: str) -> bool:
    """Return whether a parameter of this name is a factor of an adapter."""
    return name.rpartition(".")[2] in FACTORS


def merge_adapters(model: nn.Module) -> None:
    """Turn every layer with an adapter into an ordinary one with the matrix W, in place."""
    for name, layer in list(adapted_layers(model)):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(layer.weight.detach())
        plain.bias = layer.bias
        _replace(model, name, plain)


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of the network without adapters that computes the same."""
    state = dict(model.state_dict())
    for name, layer in adapted_layers(model):
        for own in ("base", *FACTORS):
            del state[f"{name}.{own}"]
        state[f"{name}.weight"] = layer.weight
    return state


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
