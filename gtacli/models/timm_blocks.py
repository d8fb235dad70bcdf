"""Run timm's ViTs module by module; no other file depends on how their forward passes work.

Each function repeats the model's own code, in the same order and on its own modules, split where
q and k exist. The supported classes are listed exactly, because a subclass may compute something
else; any other class is rejected with an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from timm.layers import Attention, AttentionRope, PatchEmbed, apply_rot_embed_cat
from timm.models._manipulate import checkpoint
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.errors import UsageError, errors_about
from gtacli.models import positions
from gtacli.models.attention_kernel import attended_values, has_own_kernel
from gtacli.models.patches import embed_patches
from gtacli.models.qkv import qkv_views, split_heads
from gtacli.models.windows import class_of, run_in

R = TypeVar("R")

_PRE_NORM = (Block, EvaBlock)
_POST_NORM = (ResPostBlock, EvaBlockPostNorm)
_ATTENTION = (Attention, AttentionRope, EvaAttention)


def check(model: nn.Module) -> None:
    """Raise UsageError (option "model") unless every block of the model can be tapped."""
    families: tuple[Any, ...] = (VisionTransformer, Eva)
    family = next((c for c in families if isinstance(model, c)), None)
    same_walk = family is not None and (
        cast(Any, class_of(model)).forward_features is family.forward_features
        and class_of(model).forward is family.forward
    )
    if not same_walk:
        raise UsageError(
            f"{type(model).__name__} is not a ViT whose attention can be extracted; timm's "
            "VisionTransformer, VisionTransformerDistilled and Eva are supported "
            "(`gta models list` shows their names)",
            option="model",
        )
    for i, block in enumerate(cast(Any, model).blocks):
        kind, inner = class_of(block), type(getattr(block, "attn", None))
        if kind not in _PRE_NORM + _POST_NORM or inner not in _ATTENTION:
            name = kind.__name__ if kind not in _PRE_NORM + _POST_NORM else inner.__name__
            raise UsageError(
                f"attention cannot be extracted from {name} (block {i})", option="model"
            )


def grid(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the patch grid (gh, gw) for images of size (h, w)."""
    return tuple(cast(Any, model).patch_embed.dynamic_feat_size(image_size))


def embed(model: nn.Module, images: Tensor) -> tuple[Tensor, Any]:
    """Return the tokens (B, P+N, C) before the first block, and each block's rotary embedding."""
    return add_positions(model, patch_tokens(model, images))


def patch_tokens(model: nn.Module, images: Tensor) -> Tensor:
    """Return the patches' embeddings (B, N, C), or (B, gh, gw, C) for images of any size."""
    return cast(Tensor, cast(Any, model).patch_embed(images))


def add_positions(model: nn.Module, patches: Tensor) -> tuple[Tensor, Any]:
    """Return what `embed` does, for the return value of `patch_tokens`."""
    m = cast(Any, model)
    if isinstance(model, Eva):
        x, rope = m._pos_embed(patches)
        x = m.norm_pre(x)
        if rope is None:
            return x, None
        # "mixed" rotary embeddings differ between blocks; the others are the same for all.
        return x, rope if getattr(m, "rope_mixed", False) else [rope] * len(m.blocks)
    return m.norm_pre(m.patch_drop(positions.add(model, patches))), None


def check_masked(model: nn.Module) -> None:
    """Raise UsageError (option "model") unless the model can process a subset of the patches."""
    check(model)
    m = cast(Any, model)
    with errors_about("model"):
        if type(m.patch_embed) is not PatchEmbed:
            name = type(m.patch_embed).__name__
            raise UsageError(f"{name} mixes patches; a masked encoder needs separate patches")
        if m.pos_embed is None and getattr(m, "rope", None) is None:
            raise UsageError("a model without position embeddings cannot be trained with masks")
        if m.pos_drop.p or getattr(m.patch_drop, "prob", 0):
            raise UsageError("pos_drop and patch_drop cannot be combined with masks; set them to 0")


def embed_visible(
    model: nn.Module, patches: Tensor, keep: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Any]:
    """Return the tokens before the first block for a subset of each image's patches; see `embed`.

    Args:
        model: a model that `check_masked` accepts.
        patches: (B, K, p * q * 3) pixels of the visible patches, in the order of `patchify`.
        keep: (B, K) their indices in the grid.
        grid: (gh, gw) of the full images.

    Returns:
        Tokens (B, P+K, C), and each block's rotary embedding (B, 1 or H, K, D) or None.
    """
    m = cast(Any, model)
    x = m.patch_embed.norm(
        embed_patches(patches, m.patch_embed.proj.weight, m.patch_embed.proj.bias)
    )
    # The model's own code on one image of zeros gives the position embeddings and prefix tokens.
    width, n = x.shape[-1], grid[0] * grid[1]
    zeros = x.new_zeros((1, *grid, width) if m.dynamic_img_size else (1, n, width))
    added = m._pos_embed(zeros)
    added, rope = added if isinstance(model, Eva) else (added, None)
    prefix, positions = added.split((added.shape[1] - n, n), dim=1)
    x = x + F.embedding(keep, positions[0])
    x = m.norm_pre(torch.cat([prefix.expand(len(x), -1, -1).to(x.dtype), x], dim=1))
    if rope is None:
        return x, None

    def select(rope: Tensor) -> Tensor:
        """Select the visible patches: (N, D) or (H, N, D) -> (B, 1 or H, K, D)."""
        visible = rope[..., keep, :].movedim(-3, 0)
        return visible.unsqueeze(1) if visible.ndim == 3 else visible

    if getattr(m, "rope_mixed", False):
        return x, [select(r) for r in rope]
    return x, [select(rope)] * len(m.blocks)


def plain_block(model: nn.Module, block: nn.Module, x: Tensor, rope: Tensor | None) -> Tensor:
    """Run a block exactly as the model does."""
    return run_block(model, whole_block, block, x, rope)


def whole_block(block: nn.Module, x: Tensor, rope: Tensor | None = None) -> Tensor:
    """Run a block as its own class does, with our attention kernel where that is faster."""
    if has_own_kernel(block, x.device):
        return tapped_block(block, x, rope, None)[0]
    return cast(Tensor, block(x) if rope is None else block(x, rope=rope))


def run_block(model: nn.Module, block: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call `block(...)`, with activation checkpointing if the model is set to it."""
    if cast(Any, model).grad_checkpointing and torch.is_grad_enabled():
        return cast(R, checkpoint(block, *args, **kwargs))
    return block(*args, **kwargs)


class AttentionTensors(NamedTuple):
    """The tensors of one attention layer; those that do not exist or were not requested are None.

    Attributes:
        q: (B, H, R, D) queries, of all tokens or of the CLS token alone.
        k, v: (B, H, P+N, D).
        row: (B, H, 1, P+N) logits of the CLS row in fp32, if they cost nothing extra.
        attended: (B, P+N, C) output of the attention sub-layer.
    """

    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    row: Tensor | None = None
    attended: Tensor | None = None


def tapped_block(
    block: Any, x: Tensor, rope: Tensor | None, rows: str | None
) -> tuple[Tensor, AttentionTensors]:
    """Run a block; return its output and its attention tensors (`rows` "cls": with the CLS row)."""
    return run_in(block, _tapped_block, block, x, rope, rows)


def _tapped_block(
    block: Any, x: Tensor, rope: Tensor | None, rows: str | None
) -> tuple[Tensor, AttentionTensors]:
    pre_norm = isinstance(block, _PRE_NORM)
    h = block.norm1(x) if pre_norm else x
    tensors = project(block.attn, h, rope, row=rows == "cls")
    attended = attend(block.attn, h, tensors)
    tensors = tensors._replace(attended=attended)
    if not pre_norm:
        x = x + block.drop_path1(block.norm1(attended))
        return x + block.drop_path2(block.norm2(block.mlp(x))), tensors
    return _finish(block, x, attended), tensors


def block_after_norm(block: Any, x: Tensor, h: Tensor, rope: Tensor | None) -> Tensor:
    """Return the output of a block on x (B, P+N, C) with h in place of its norm1(x).

    Raises UsageError (option "model") for post-norm blocks.
    """
    if not isinstance(block, _PRE_NORM):
        raise UsageError(f"{type(block).__name__} has no normalized input", option="model")
    return _finish(block, x, attend(block.attn, h, project(block.attn, h, rope)))


def block_rows(block: Any, x: Tensor, start: int) -> Tensor:
    """Return the output (B, T-start, C) of a pre-norm block on x (B, T, C) from token `start` on.

    These tokens still attend to all tokens.
    """
    return run_in(block, _block_rows, block, x, start)


def _block_rows(block: Any, x: Tensor, start: int) -> Tensor:
    h = block.norm1(x)
    tensors = project(block.attn, h, None)
    assert tensors.q is not None
    rows = tensors._replace(q=tensors.q[:, :, start:])
    return _finish(block, x[:, start:], attend(block.attn, h[:, start:], rows))


def _finish(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.drop_path1(_layer_scale(block, 1, attended))
    return x + block.drop_path2(_layer_scale(block, 2, block.mlp(block.norm2(x))))


def attention_input(
    block: Any, x: Tensor, rope: Tensor | None, rows: str, msa: bool
) -> AttentionTensors:
    """Return q and k of a block whose output is not needed, without values or MLP.

    With `msa` the attention sub-layer runs, too.
    """
    return run_in(block, _attention_input, block, x, rope, rows, msa)


def _attention_input(
    block: Any, x: Tensor, rope: Tensor | None, rows: str, msa: bool
) -> AttentionTensors:
    h = block.norm1(x) if isinstance(block, _PRE_NORM) else x
    if not msa:
        return project_rows(block.attn, h, rope, rows)
    tensors = project(block.attn, h, rope)
    return tensors._replace(attended=attend(block.attn, h, tensors))


def _layer_scale(block: Any, which: int, x: Tensor) -> Tensor:
    if isinstance(block, EvaBlock):
        gamma = block.gamma_1 if which == 1 else block.gamma_2
        return x if gamma is None else gamma * x
    return cast(Tensor, (block.ls1 if which == 1 else block.ls2)(x))


def _qkv_bias(attn: Any) -> Tensor | None:
    """Return the bias of the joint projection; EVA has separate ones for q and v, none for k."""
    if getattr(attn, "q_bias", None) is not None:
        return torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
    return cast("Tensor | None", attn.qkv.bias)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _normalize_and_rotate(
    attn: Any, q: Tensor, k: Tensor, dtype: torch.dtype, rope: Tensor | None, cls_only: bool = False
) -> tuple[Tensor, Tensor]:
    q, k = attn.q_norm(q), attn.k_norm(k)
    if rope is not None:
        p, half = attn.num_prefix_tokens, getattr(attn, "rotate_half", False)

        def rotate(t: Tensor) -> Tensor:
            patches = apply_rot_embed_cat(t[:, :, p:], rope, half=half)
            return torch.cat([t[:, :, :p], patches], dim=2).to(dtype)

        q, k = (q.to(dtype) if cls_only else rotate(q)), rotate(k)
    return q, k


def project(attn: Any, h: Tensor, rope: Tensor | None, row: bool = False) -> AttentionTensors:
    """Return q, k, v of an attention layer after its norm and rotation; `row`: also the CLS row."""
    if attn.qkv is not None:
        apart = getattr(attn, "q_bias", None) is not None
        qkv = F.linear(h, attn.qkv.weight, _qkv_bias(attn)) if apart else attn.qkv(h)
        bare = isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity)
        one_pass = row or has_own_kernel(attn, qkv.device)
        if one_pass and bare and rope is None and qkv.requires_grad:
            return AttentionTensors(*split_heads(qkv, attn.num_heads, attn.scale))
        q, k, v = qkv_views(qkv, attn.num_heads)
    else:
        kv_heads = getattr(attn, "num_kv_heads", attn.num_heads)
        q = _heads(attn.q_proj(h), attn.num_heads)
        k, v = _heads(attn.k_proj(h), kv_heads), _heads(attn.v_proj(h), kv_heads)
    q, k = _normalize_and_rotate(attn, q, k, v.dtype, rope)
    groups = getattr(attn, "num_kv_groups", 1)
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return AttentionTensors(q, k, v)


def project_rows(attn: Any, h: Tensor, rope: Tensor | None, rows: str) -> AttentionTensors:
    """Return q of the requested rows (B, H, R, D) and all keys, without the values.

    For rows "cls" only the CLS token is projected to a query, which saves the other queries.
    """
    if attn.qkv is None:
        q, k = attn.q_proj(h[:, :1] if rows == "cls" else h), attn.k_proj(h)
    else:
        width = attn.qkv.weight.shape[0] // 3
        w_q, w_k, _ = attn.qkv.weight.split(width)
        bias = _qkv_bias(attn)
        b_q, b_k = (None, None) if bias is None else (bias[:width], bias[width : 2 * width])
        q, k = F.linear(h[:, :1] if rows == "cls" else h, w_q, b_q), F.linear(h, w_k, b_k)
    kv_heads = getattr(attn, "num_kv_heads", attn.num_heads)
    q, k = _normalize_and_rotate(
        attn, _heads(q, attn.num_heads), _heads(k, kv_heads), k.dtype, rope, rows == "cls"
    )
    groups = getattr(attn, "num_kv_groups", 1)
    return AttentionTensors(q, k.repeat_interleave(groups, dim=1) if groups > 1 else k)


def attend(attn: Any, h: Tensor, tensors: AttentionTensors) -> Tensor:
    """Run the rest of the attention layer: (B, P+N, C)."""
    assert tensors.q is not None
    assert tensors.k is not None
    assert tensors.v is not None
    dropout = attn.attn_drop.p if attn.training else 0.0
    x = attended_values(attn, tensors.q, tensors.k, tensors.v, dropout)
    x = attn.norm(x.transpose(1, 2).flatten(2))
    if attn.gate is not None:
        x = x * attn.gate(h).sigmoid()
    return cast(Tensor, attn.proj_drop(attn.proj(x)))


def classify(model: nn.Module, tokens: Tensor, features: Tensor | None) -> Tensor:
    """Return class logits from the final tokens, or from their pooled features if given.

    The pooled features of a distilled DeiT do not determine its logits (two heads on two tokens),
    so they are not used there.
    """
    m = cast(Any, model)
    if features is None or isinstance(model, VisionTransformerDistilled):
        return cast(Tensor, m.forward_head(tokens))
    return cast(Tensor, m.head(features))
