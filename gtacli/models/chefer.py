"""Transformer attribution (Chefer et al., arXiv 2012.09838): relevance and gradient of attention.

The class's relevance is propagated to the attention A_l of every block; its positive product with
the gradient, averaged over the heads, is rolled out:

    C_l = mean over heads of (dy / dA_l * R_l)+,    row = e (I + C_L) ... (I + C_1),

with e the tokens that the classifier reads: the CLS token, or each pooled token with its share of
the relevance. The rules of propagation:

    linear layer             z+ rule, R_i = sum_j z_ij^+ / sum_i z_ij^+ R_j, z_ij = x_i w_ij
    normalization, activation, softmax, product with a parameter    R stays
    product of two           each factor gets half, a_ik b_kj / y_ij R_ij / 2
    sum of two               x_i / (x_i + y_i) R_i, rescaled for the two parts of an image to sum to
                             R in proportion to the size of their sums
    mean over tokens         in proportion to the values

Blocks run a second and third time, the last one first, for gradient and relevance: no more than one
block's attention and activations exist at a time. The row is multiplied from the left, so that no
product of two T x T matrices is needed. The rules are a mode of torch's functions (see `attnlrp`)
whose backward pass carries the relevance itself in place of the gradient.

Shapes: B images, H heads, T tokens, C width of the embedding, K classes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gtacli.models import timm_blocks
from gtacli.models.class_scores import TargetClass, class_scores, classify_tokens

_TINY = 1e-9
"""Added to a divisor; as the published code does."""


def chefer(model: nn.Module, images: Tensor, target: TargetClass = "predicted") -> Tensor:
    """Compute the transformer attribution of every patch for a class, (B, gh, gw).

    The parameters' `.grad` is not changed, and autocast is off. The published rules divide by sums
    near zero: in fp32 the maps of some images depend on rounding.

    Args:
        model: a supported ViT with a classifier, in eval mode.
        images: (B, 3, h, w), already normalized.

    Raises UsageError (option "model") for an unsupported model.
    """
    timm_blocks.check(model)
    m = cast(Any, model)
    grid = timm_blocks.grid(model, (images.shape[-2], images.shape[-1]))
    with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
        inputs, ropes = _block_inputs(model, images)
        depth = len(m.blocks)
        gradient, relevance = _through_classifier(model, inputs.pop(), target)
        row = relevance.sum(-1).clamp_min(0)[:, None]
        row = _divide(row, row.sum(-1, keepdim=True))
        for i in reversed(range(depth)):
            rope = None if ropes is None else ropes[i]
            x = inputs.pop()
            gradient, slopes = _block_gradient(model, i, x, rope, gradient)
            relevance, shares = _block_relevance(model, i, x, rope, relevance)
            row = row + row @ slopes.mul_(shares).clamp_min_(0).mean(1)
    return row[:, 0, int(m.num_prefix_tokens) :].reshape(len(images), *grid)


@torch.no_grad()
def _block_inputs(model: nn.Module, images: Tensor) -> tuple[list[Tensor], Any]:
    """Return the input of each block and the output of the last one, and the rotary embeddings."""
    x, ropes = timm_blocks.embed(model, images)
    inputs = [x]
    for i, block in enumerate(cast(Any, model).blocks):
        x, _ = timm_blocks.tapped_block(block, x, None if ropes is None else ropes[i], None)
        inputs.append(x)
    return inputs, ropes


@torch.enable_grad()
def _through_classifier(
    model: nn.Module, tokens: Tensor, target: TargetClass
) -> tuple[Tensor, Tensor]:
    """Return gradient and relevance (B, T, C) of the last block's output; the class has 1."""
    depth = len(cast(Any, model).blocks)
    tokens = tokens.detach().requires_grad_()
    logits = classify_tokens(model, tokens, None, depth)
    scores = class_scores(logits, target)
    one_hot, gradient = torch.autograd.grad(scores.sum(), (logits, tokens))
    with _Relevance():
        logits = classify_tokens(model, tokens, None, depth)
    (relevance,) = torch.autograd.grad(logits, tokens, one_hot)
    return gradient, relevance


@torch.enable_grad()
def _block_gradient(
    model: nn.Module, i: int, x: Tensor, rope: Tensor | None, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the block's input (B, T, C) and of its attention (B, H, T, T)."""
    x = x.detach().requires_grad_()
    with _ExplicitAttention() as explicit:
        y, _ = timm_blocks.tapped_block(cast(Any, model).blocks[i], x, rope, None)
    at_input, of_attention = torch.autograd.grad(y, (x, explicit.attention), gradient)
    return at_input, of_attention


@torch.enable_grad()
def _block_relevance(
    model: nn.Module, i: int, x: Tensor, rope: Tensor | None, relevance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the relevance of the block's input (B, T, C) and of its attention (B, H, T, T)."""
    x = x.detach().requires_grad_()
    with _Relevance() as rules:
        y, _ = timm_blocks.tapped_block(cast(Any, model).blocks[i], x, rope, None)
    (at_input,) = torch.autograd.grad(y, x, relevance)
    return at_input, rules.of_attention.pop()


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, 0 where b is 0."""
    return torch.where(b == 0, 0, a / (b + _TINY))


def _weights(q: Tensor, k: Tensor, kwargs: Any) -> Tensor:
    """Return the attention (B, H, T, T) of the arguments of the fused kernel."""
    scale = kwargs.get("scale")
    return (q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1)


class _ExplicitAttention(TorchFunctionMode):
    """Attention whose weights exist, for their gradient."""

    attention: Tensor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v = args[:3]
        self.attention = _weights(q, k, kwargs)
        return self.attention @ v


class _Relevance(TorchFunctionMode):
    """Torch's functions whose backward pass carries relevance; the values are theirs.

    Attributes:
        of_attention: the relevance (B, H, T, T) of each attention that the backward pass reached.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_attention: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3], kwargs, self.of_attention)
        if func is F.linear:
            return _PositiveLinear.apply(*args, *kwargs.values())
        several = sum(map(_is_activation, args[:2])) == 2
        if func in _SUMS and several:
            return _Sum.apply(*args)
        if func in _PRODUCTS and several:
            return _Product.apply(*args)
        if func in _MEANS and _is_activation(args[0]):
            return _Mean.apply(args[0], lambda x: func(x, *args[1:], **kwargs))
        if func in _KEPT or func in _SUMS or func in _PRODUCTS:
            first = next((a for a in args[:2] if _is_activation(a)), None)
            if first is not None:
                with torch.no_grad():
                    value = func(*args, **kwargs)
                return _Kept.apply(first, value)
        return func(*args, **kwargs)


_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__}
_PRODUCTS = {
    *(torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__),
    *(torch.div, Tensor.div, Tensor.__truediv__),
}
_MEANS = {torch.mean, Tensor.mean}
_KEPT = {
    *(F.layer_norm, F.rms_norm, F.gelu, F.silu, F.relu, F.mish, F.hardswish, F.elu),
    *(torch.tanh, Tensor.tanh, torch.sigmoid, Tensor.sigmoid, F.dropout),
}


def _is_activation(value: Any) -> bool:
    """Return whether a value carries relevance: a tensor that is computed, not a parameter."""
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)


class _Kept(torch.autograd.Function):
    """A value of x that passes its relevance on to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        ctx.shape = x.shape
        return value

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance.sum_to_size(ctx.shape), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x + y

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        share = _divide(relevance, x + y)
        parts = x * share, y * share
        dims = tuple(range(1, relevance.ndim))
        sums = [part.sum(dims, keepdim=True) for part in parts]
        size = sums[0].abs() + sums[1].abs()
        whole = relevance.sum(dims, keepdim=True)
        first, second = (
            part * _divide(_divide(total.abs(), size) * whole, total)
            for part, total in zip(parts, sums, strict=True)
        )
        return first.sum_to_size(x.shape), second.sum_to_size(y.shape)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.shapes = x.shape, y.shape
        return x * y

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (relevance.sum_to_size(shape) / 2 for shape in ctx.shapes)
        return first, second


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Any) -> Tensor:
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.y = mean(ctx.x)
        return cast(Tensor, ctx.y.detach())

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        (share,) = torch.autograd.grad(ctx.y, ctx.x, _divide(relevance, ctx.y.detach()))
        return ctx.x.detach() * share, None


class _PositiveLinear(torch.autograd.Function):
    """The z+ rule. The positive part of x w is (x w + |x| |w|) / 2: one more product each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        z = F.linear(x, weight, bias)
        ctx.save_for_backward(x, weight, z if bias is None else z - bias)
        return z

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        x, weight, z = ctx.saved_tensors
        size = weight.abs()
        share = _divide(relevance, F.linear(x.abs(), size).add_(z).div_(2))
        whole = (share @ weight).mul_(x) + (share @ size).mul_(x.abs())
        return whole.div_(2), None, None


class _Attention(torch.autograd.Function):
    """softmax(q k^T) v; its backward pass appends the relevance of the weights to a list."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, kwargs: Any, of_attention: list[Tensor]
    ) -> Tensor:
        weights = _weights(q, k, kwargs)
        out = weights @ v
        ctx.save_for_backward(q, k, v, weights, out)
        ctx.of_attention = of_attention
        return out

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, out = ctx.saved_tensors
        share = _divide(relevance, out)
        of_v = v * (weights.transpose(-2, -1) @ share) / 2
        of_weights = weights * (share @ v.transpose(-2, -1)) / 2
        ctx.of_attention.append(of_weights)
        share = _divide(of_weights, q @ k.transpose(-2, -1))
        return q * (share @ k) / 2, k * (share.transpose(-2, -1) @ q) / 2, of_v, None, None
