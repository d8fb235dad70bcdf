"""Whether, and how, the attention of two networks can be compared.

Rows of logits belong to any two networks with a CLS token: rows on another patch grid are resized,
and where the numbers of heads differ the mean over the heads stands for them (both ours; GTA's
paper compares a network with its own past). Whatever else is compared, token by token or channel
by channel, has to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.errors import UsageError
from gtacli.models.tap import Tap, absolute_layers


def require_same(target: nn.Module, source: nn.Module, what: str, *measures: str) -> None:
    """Raise UsageError, naming what differs, unless both networks agree in `measures`.

    Args:
        what: compares them, for the message.
        measures: of "heads", "head width", "width", "patches", "prefix tokens".
    """
    for measure in measures:
        t, s = _MEASURES[measure](target), _MEASURES[measure](source)
        if t != s:
            raise UsageError(
                f"--source: {what} needs the same {measure} in both networks, but the model has "
                f"{t} and the source {s}; --guide logits with --rows cls does without"
            )


_MEASURES: dict[str, Any] = {
    "heads": lambda m: m.blocks[0].attn.num_heads,
    "head width": lambda m: round(m.blocks[0].attn.scale ** -2),
    "width": lambda m: m.embed_dim,
    "patches": lambda m: "x".join(map(str, m.patch_embed.grid_size)),
    "prefix tokens": lambda m: m.num_prefix_tokens,
}


def paired_layers(
    layers: Sequence[int] | str, target: nn.Module, source: nn.Module
) -> tuple[tuple[int, int], ...]:
    """(target's, source's) absolute block numbers, ascending.

    In networks of different depth only blocks counted from the end belong together.

    Raises UsageError for blocks that a network has not, or that have no counterpart.
    """
    depths = [len(cast(nn.ModuleList, m.blocks)) for m in (target, source)]
    from_end = layers == "last" or (layers != "all" and all(cast(int, i) < 0 for i in layers))
    if depths[0] != depths[1] and not from_end:
        raise UsageError(
            f"--source: the model has {depths[0]} blocks, the source {depths[1]}; say which belong "
            "together by counting from the end: --layers last, or -1,-2"
        )
    ours, theirs = (absolute_layers(layers, depth) for depth in depths)
    return tuple(zip(ours, theirs, strict=True))


def comparable_rows(target: Tap, source: Tap, cls_column: bool = False) -> tuple[Tensor, Tensor]:
    """The CLS rows of two networks on the same columns and heads: twice (B, H, 1, C) logits.

    The columns are the target's patches, after the CLS token's own column if asked; never
    registers.
    """
    rows = [_columns(tap.cls(), target.grid, cls_column) for tap in (target, source)]
    if rows[0].shape[1] != rows[1].shape[1]:
        rows = [row.mean(1, keepdim=True) for row in rows]
    return rows[0], rows[1]


def _columns(tap: Tap, grid: tuple[int, int], cls_column: bool) -> Tensor:
    patches = tap.logits[..., tap.num_prefix_tokens :]
    if tap.grid != grid:
        maps = patches.squeeze(2).unflatten(-1, tap.grid)
        # Antialiased: a mean where the grid gets coarser, not a sample.
        maps = F.interpolate(maps, grid, mode="bilinear", antialias=True, align_corners=False)
        patches = maps.flatten(-2).unsqueeze(2)
    return torch.cat((tap.logits[..., :1], patches), -1) if cls_column else patches
