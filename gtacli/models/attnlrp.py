"""AttnLRP (Achtibat et al., arXiv 2402.05602): the relevance of each patch for a class.

Layer-wise relevance propagation redistributes the class's logit from layer to layer. The relevance
of an activation x is x times a modified gradient g, so that one forward and one backward pass
compute it; g differs from the gradient of the network in these rules:

    linear layer      gamma rule, R_i = sum_j (z_ij + gamma z_ij^s) / (z_j + gamma z_j^s) R_j,
                      z_ij = x_i w_ij, z_j = sum_i z_ij + b_j, z^s the part with the sign of z_j;
                      gamma = 0 is the plain rule, whose g is the gradient
    normalization     the standard deviation is a constant
    activation f      the identity rule R_x = R_f(x): g = f(x) / x instead of f'(x)
    product of two    the uniform rule: each factor gets half of the relevance
    softmax           Taylor's rule with the bias absorbed, R_i = x_i (R_i - s_i sum_j R_j): its g
                      is the gradient
    gate              sigmoid(x) in a product is a constant: the gated activation gets all

Biases absorb their share of the relevance. The rules are a mode of torch's functions, in force
while the network's own modules run: no module is patched, and any network that consists of such
functions is explained.

Shapes: B images, T tokens, C width of the embedding, I and J inputs and outputs of a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gtacli.models import timm_blocks
from gtacli.models.class_scores import TargetClass, class_scores, classify_tokens


def attnlrp(
    model: nn.Module, images: Tensor, target: TargetClass = "predicted", gamma: float = 0.05
) -> Tensor:
    """Compute the relevance of every patch's embedding for a class, (B, gh, gw).

    Evidence against the class is negative. The parameters' `.grad` is not changed, and autocast is
    off, because relevance is a sum of large terms that cancel.

    Args:
        model: a supported ViT with a classifier, in eval mode.
        images: (B, 3, h, w), already normalized.
        gamma: of the gamma rule; larger values favor contributions that agree with their sum.

    Raises UsageError (option "model") for an unsupported model.
    """
    timm_blocks.check(model)
    grid = timm_blocks.grid(model, (images.shape[-2], images.shape[-1]))
    with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
        with torch.no_grad():
            patches = timm_blocks.patch_tokens(model, images)
        with torch.enable_grad():
            patches.requires_grad_()
            with _Rules(gamma):
                tokens, ropes = timm_blocks.add_positions(model, patches)
                logits = classify_tokens(model, tokens, ropes)
            scores = class_scores(logits, target)
            (gradient,) = torch.autograd.grad(scores.sum(), patches)
    relevance = (patches.detach() * gradient).sum(-1)
    return relevance.reshape(len(images), *grid)


class _Rules(TorchFunctionMode):
    """Torch's functions with AttnLRP's modified gradients; the values are theirs."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return _linear(self.gamma, *args, **kwargs)
        if func in (F.layer_norm, F.rms_norm):
            return (_layer_norm if func is F.layer_norm else _rms_norm)(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _ACTIVATIONS and result.requires_grad:
            x = args[0]
            ratio = torch.where(x == 0, 0, result / x).detach()
            return _WithGradient.apply(x, result.detach(), ratio)
        if func in _PRODUCTS and all(map(_is_activation, args[:2])):
            return _Scaled.apply(result, 0.5)
        return result.detach() if func in _CONSTANTS else result


_ACTIVATIONS = {F.gelu, F.silu, F.relu, F.mish, F.hardswish, F.elu, torch.tanh, Tensor.tanh}
_PRODUCTS = {
    *(torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__),
    *(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm),
}
_CONSTANTS = {torch.sigmoid, F.sigmoid, Tensor.sigmoid, Tensor.sigmoid_, torch.rsqrt, Tensor.rsqrt}


def _is_activation(value: Any) -> bool:
    """Return whether a factor carries relevance: a tensor that is computed, not a parameter."""
    return isinstance(value, Tensor) and not value.is_leaf and value.requires_grad


def _linear(gamma: float, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not gamma or not x.requires_grad:
        return F.linear(x, weight, bias)
    return _GammaLinear.apply(x, weight.detach(), bias if bias is None else bias.detach(), gamma)


def _layer_norm(
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    centered = x - x.mean(dims, keepdim=True)
    y = centered * centered.detach().square().mean(dims, keepdim=True).add(eps).rsqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _rms_norm(
    x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    dims = tuple(range(-len(normalized_shape), 0))
    y = x * x.detach().square().mean(dims, keepdim=True).add(eps).rsqrt()
    return y if weight is None else y * weight


def _attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Halve the relevance at both products: values get 1/2, queries and keys 1/4."""
    q, k, v = _Scaled.apply(q, 0.25), _Scaled.apply(k, 0.25), _Scaled.apply(v, 0.5)
    return F.scaled_dot_product_attention(q, k, v, *args, **kwargs)


class _Scaled(torch.autograd.Function):
    """x, with `factor` times its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class _WithGradient(torch.autograd.Function):
    """A value of x whose gradient is multiplied by `factor` on the way to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None, None


class _GammaLinear(torch.autograd.Function):
    """The gamma rule, as a modified gradient.

    The part of z_ij with sign s is (z_ij + s |x_i| |w_ij|) / 2: one more product each way, instead
    of one for each sign of x and w. The ratio of z_j to the denominator is at most 1 / (1 + gamma),
    so that no term stabilizes it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float) -> Tensor:
        z = F.linear(x, weight, bias)
        ctx.save_for_backward(x, weight, bias, z)
        ctx.gamma = gamma
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, z = ctx.saved_tensors
        half, sign, size = ctx.gamma / 2, z.sign(), weight.abs()
        # Of the bias, too, the part with the sign of z: (b + s |b|) / 2.
        boost = F.linear(x.abs(), size, bias if bias is None else bias.abs()).mul_(sign).add_(z)
        whole = boost.mul_(half).add_(z)
        share = gradient * torch.where(whole == 0, 1, z / whole)
        ours = (share @ weight).mul_(1 + half)
        ours += ((share * sign) @ size).mul_(x.sign()).mul_(half)
        return ours, None, None, None
