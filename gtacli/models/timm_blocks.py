"""Walks timm's ViTs module by module: the one file that knows how their forward passes are made.

Each function is the model's own code, in the same order and on its own modules, split where q and
k exist. The families are listed by exact class, because a subclass may compute something else;
what is not listed is refused by name.
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

from gtacli.errors import UsageError
from gtacli.models import positions
from gtacli.models.heads import qkv_views, split_heads
from gtacli.models.patches import embedded

R = TypeVar("R")

_PRE_NORM = (Block, EvaBlock)
_POST_NORM = (ResPostBlock, EvaBlockPostNorm)
_ATTENTION = (Attention, AttentionRope, EvaAttention)


def check(model: nn.Module) -> None:
    """Raise UsageError, naming the class, unless every block of the model can be tapped."""
    families: tuple[Any, ...] = (VisionTransformer, Eva)
    family = next((c for c in families if isinstance(model, c)), None)
    same_walk = family is not None and (
        cast(Any, type(model)).forward_features is family.forward_features
        and type(model).forward is family.forward
    )
    if not same_walk:
        raise UsageError(
            f"model: {type(model).__name__} is not a ViT whose attention can be read; "
            "timm's VisionTransformer, VisionTransformerDistilled and Eva are "
            "(`gta models list` shows their names)"
        )
    for i, block in enumerate(cast(Any, model).blocks):
        kind, inner = type(block), type(getattr(block, "attn", None))
        if kind not in _PRE_NORM + _POST_NORM or inner not in _ATTENTION:
            name = kind.__name__ if kind not in _PRE_NORM + _POST_NORM else inner.__name__
            raise UsageError(f"model: the attention of {name} (block {i}) cannot be read")


def grid(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """(gh, gw) of the patches for images of (h, w)."""
    return tuple(cast(Any, model).patch_embed.dynamic_feat_size(image_size))


def embed(model: nn.Module, images: Tensor) -> tuple[Tensor, Any]:
    """Tokens (B, P+N, C) before the first block, and the rotary embedding of each block if any."""
    m = cast(Any, model)
    x = m.patch_embed(images)
    if isinstance(model, Eva):
        x, rope = m._pos_embed(x)
        x = m.norm_pre(x)
        if rope is None:
            return x, None
        # "mixed" rotary embeddings differ from block to block, the others are one for all.
        return x, rope if getattr(m, "rope_mixed", False) else [rope] * len(m.blocks)
    return m.norm_pre(m.patch_drop(positions.add(model, x))), None


def check_masked(model: nn.Module) -> None:
    """Raise UsageError, naming what is in the way, unless the model can see some patches alone."""
    check(model)
    m = cast(Any, model)
    if type(m.patch_embed) is not PatchEmbed:
        name = type(m.patch_embed).__name__
        raise UsageError(f"model: {name} mixes its patches; a masked encoder needs them apart")
    if m.pos_embed is None and getattr(m, "rope", None) is None:
        raise UsageError("model: it has no positions, so it could not tell what is masked")
    if m.pos_drop.p or getattr(m.patch_drop, "prob", 0):
        raise UsageError(
            "model: pos_drop and patch_drop have no place beside masking; leave them 0"
        )


def embed_visible(
    model: nn.Module, patches: Tensor, keep: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Any]:
    """`embed` for some patches of each image.

    Args:
        model: one that `check_masked` lets pass.
        patches: (B, K, p * q * 3) pixels of the visible patches, as `patchify` writes them.
        keep: (B, K) their places in the grid.
        grid: (gh, gw) of the whole images.

    Returns:
        Tokens (B, P+K, C) before the first block, and the rotary embedding of each block if any,
        (B, 1 or H, K, D) each.
    """
    m = cast(Any, model)
    x = m.patch_embed.norm(embedded(patches, m.patch_embed.proj.weight, m.patch_embed.proj.bias))
    # The model's own code, on one image of nothing: what it adds to patches and puts before them.
    width, n = x.shape[-1], grid[0] * grid[1]
    nothing = x.new_zeros((1, *grid, width) if m.dynamic_img_size else (1, n, width))
    added = m._pos_embed(nothing)
    added, rope = added if isinstance(model, Eva) else (added, None)
    prefix, positions = added.split((added.shape[1] - n, n), dim=1)
    x = x + F.embedding(keep, positions[0])
    x = m.norm_pre(torch.cat([prefix.expand(len(x), -1, -1).to(x.dtype), x], dim=1))
    if rope is None:
        return x, None

    def seen(rope: Tensor) -> Tensor:
        """(N, D) or (H, N, D) -> (B, 1 or H, K, D)."""
        kept = rope[..., keep, :].movedim(-3, 0)
        return kept.unsqueeze(1) if kept.ndim == 3 else kept

    if getattr(m, "rope_mixed", False):
        return x, [seen(r) for r in rope]
    return x, [seen(rope)] * len(m.blocks)


def plain_block(model: nn.Module, block: nn.Module, x: Tensor, rope: Tensor | None) -> Tensor:
    """An untapped block, exactly as the model would run it."""
    kwargs = {} if rope is None else {"rope": rope}
    return cast(Tensor, run_block(model, block, x, **kwargs))


def run_block(model: nn.Module, block: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """`block(...)`, keeping none of its activations if the model is set to checkpoint them."""
    if cast(Any, model).grad_checkpointing and torch.is_grad_enabled():
        return cast(R, checkpoint(block, *args, **kwargs))
    return block(*args, **kwargs)


class Heads(NamedTuple):
    """What one attention layer hands out; parts that do not exist or were not asked for are None.

    Attributes:
        q: (B, H, R, D) queries, of all tokens or of the CLS token alone.
        k, v: (B, H, P+N, D).
        row: (B, H, 1, P+N) logits of the CLS row in fp32, where they came cheaply on the way.
        attended: (B, P+N, C) output of the attention sub-layer.
    """

    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    row: Tensor | None = None
    attended: Tensor | None = None


def tapped_block(
    block: Any, x: Tensor, rope: Tensor | None, rows: str | None
) -> tuple[Tensor, Heads]:
    """A block's output, and what its attention layer hands out (`rows`: of q; None: no q, k)."""
    pre_norm = isinstance(block, _PRE_NORM)
    h = block.norm1(x) if pre_norm else x
    heads = project(block.attn, h, rope, row=rows == "cls")
    attended = attend(block.attn, h, heads)
    heads = heads._replace(attended=attended)
    if not pre_norm:
        x = x + block.drop_path1(block.norm1(attended))
        return x + block.drop_path2(block.norm2(block.mlp(x))), heads
    return _finish(block, x, attended), heads


def block_after_norm(block: Any, x: Tensor, h: Tensor, rope: Tensor | None) -> Tensor:
    """Output of a block on x (B, P+N, C) with h in the place of its norm1(x).

    Raises UsageError for blocks that normalise after their layers.
    """
    if not isinstance(block, _PRE_NORM):
        raise UsageError(f"model: {type(block).__name__} has no normalised input to look at")
    return _finish(block, x, attend(block.attn, h, project(block.attn, h, rope)))


def block_rows(block: Any, x: Tensor, start: int) -> Tensor:
    """Output (B, T-start, C) of a pre-norm block on x (B, T, C) for the tokens from `start` on;
    they still attend to all."""
    h = block.norm1(x)
    heads = project(block.attn, h, None)
    assert heads.q is not None
    rows = heads._replace(q=heads.q[:, :, start:])
    return _finish(block, x[:, start:], attend(block.attn, h[:, start:], rows))


def _finish(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.drop_path1(_layer_scale(block, 1, attended))
    return x + block.drop_path2(_layer_scale(block, 2, block.mlp(block.norm2(x))))


def attention_input(block: Any, x: Tensor, rope: Tensor | None, rows: str, msa: bool) -> Heads:
    """q and k of a block whose output nobody wants: no values, no MLP, only the asked queries.

    With `msa` the attention sub-layer runs too.
    """
    h = block.norm1(x) if isinstance(block, _PRE_NORM) else x
    if not msa:
        return project_rows(block.attn, h, rope, rows)
    heads = project(block.attn, h, rope)
    return heads._replace(attended=attend(block.attn, h, heads))


def _layer_scale(block: Any, which: int, x: Tensor) -> Tensor:
    if isinstance(block, EvaBlock):
        gamma = block.gamma_1 if which == 1 else block.gamma_2
        return x if gamma is None else gamma * x
    return cast(Tensor, (block.ls1 if which == 1 else block.ls2)(x))


def _qkv_bias(attn: Any) -> Tensor | None:
    """Bias of the joint projection; EVA keeps q's and v's apart and has none for k."""
    if getattr(attn, "q_bias", None) is not None:
        return torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
    return cast("Tensor | None", attn.qkv.bias)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _normalise_and_rotate(
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


def project(attn: Any, h: Tensor, rope: Tensor | None, row: bool = False) -> Heads:
    """q, k, v of an attention layer, normalised and rotated as it does; `row`: the CLS row too."""
    if attn.qkv is not None:
        apart = getattr(attn, "q_bias", None) is not None
        qkv = F.linear(h, attn.qkv.weight, _qkv_bias(attn)) if apart else attn.qkv(h)
        bare = isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity)
        if row and bare and rope is None and qkv.requires_grad:
            return Heads(*split_heads(qkv, attn.num_heads, attn.scale))
        q, k, v = qkv_views(qkv, attn.num_heads)
    else:
        kv_heads = getattr(attn, "num_kv_heads", attn.num_heads)
        q = _heads(attn.q_proj(h), attn.num_heads)
        k, v = _heads(attn.k_proj(h), kv_heads), _heads(attn.v_proj(h), kv_heads)
    q, k = _normalise_and_rotate(attn, q, k, v.dtype, rope)
    groups = getattr(attn, "num_kv_groups", 1)
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return Heads(q, k, v)


def project_rows(attn: Any, h: Tensor, rope: Tensor | None, rows: str) -> Heads:
    """q of the asked rows (B, H, R, D) and all keys, without the values.

    The CLS token's query is projected alone: it saves the whole query projection.
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
    q, k = _normalise_and_rotate(
        attn, _heads(q, attn.num_heads), _heads(k, kv_heads), k.dtype, rope, rows == "cls"
    )
    groups = getattr(attn, "num_kv_groups", 1)
    return Heads(q, k.repeat_interleave(groups, dim=1) if groups > 1 else k)


def attend(attn: Any, h: Tensor, heads: Heads) -> Tensor:
    """The rest of the attention layer with the fused kernel: (B, P+N, C)."""
    assert heads.q is not None
    assert heads.k is not None
    assert heads.v is not None
    dropout = attn.attn_drop.p if attn.training else 0.0
    x = F.scaled_dot_product_attention(heads.q, heads.k, heads.v, dropout_p=dropout)
    x = attn.norm(x.transpose(1, 2).flatten(2))
    if attn.gate is not None:
        x = x * attn.gate(h).sigmoid()
    return cast(Tensor, attn.proj_drop(attn.proj(x)))


def classify(model: nn.Module, tokens: Tensor, features: Tensor | None) -> Tensor:
    """Class logits from the final tokens, or from their pooled features where those exist.

    A distilled DeiT has two heads on two tokens, so its pooled features do not determine its
    logits.
    """
    m = cast(Any, model)
    if features is None or isinstance(model, VisionTransformerDistilled):
        return cast(Tensor, m.forward_head(tokens))
    return cast(Tensor, m.head(features))
