"""Checks whether the attention of two networks can be compared, and pairs their blocks.

The CLS rows of logits of any two networks with a CLS token can be compared: rows on another patch
grid are resized, and different numbers of heads are replaced by the mean over the heads (both ours;
GTA's paper compares a network with its own initial state). Any other comparison, by token or
channel, needs equal shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from gtacli.errors import UsageError
from gtacli.models.registers import shown_prefix
from gtacli.models.tap import absolute_layers


def require_same(
    target: nn.Module, source: nn.Module, what: str, *measures: str, hint: str = ""
) -> None:
    """Raise UsageError (option "source") unless both networks agree in `measures`.

    Args:
        what: the comparison, for the message.
        measures: some of "heads", "head width", "width", "patches", "prefix tokens".
        hint: what to do otherwise, for the message.
    """
    for measure in measures:
        t, s = _MEASURES[measure](target), _MEASURES[measure](source)
        if t != s:
            raise UsageError(
                f"{what} needs the same {measure} in both networks, but the model has {t} and the "
                f"source {s}{f'; {hint}' if hint else ''}",
                option="source",
            )


_MEASURES: dict[str, Any] = {
    "heads": lambda m: m.blocks[0].attn.num_heads,
    "head width": lambda m: round(m.blocks[0].attn.scale ** -2),
    "width": lambda m: m.embed_dim,
    "patches": lambda m: "x".join(map(str, m.patch_embed.grid_size)),
    "prefix tokens": shown_prefix,
}


def paired_layers(
    layers: Sequence[int] | str, target: nn.Module, source: nn.Module
) -> tuple[tuple[int, int], ...]:
    """Return pairs of absolute block numbers (target's, source's), ascending.

    In networks of different depth blocks are paired by their number from the end.

    Raises UsageError for blocks that a network does not have, and (option "source") for blocks
    without a counterpart.
    """
    depths = [len(cast(nn.ModuleList, m.blocks)) for m in (target, source)]
    from_end = layers == "last" or (layers != "all" and all(cast(int, i) < 0 for i in layers))
    if depths[0] != depths[1] and not from_end:
        raise UsageError(
            f"the model has {depths[0]} blocks, the source {depths[1]}; count the blocks from the "
            "end: `layers=last`, or `layers=-1,-2`",
            option="source",
        )
    ours, theirs = (absolute_layers(layers, depth) for depth in depths)
    return tuple(zip(ours, theirs, strict=True))
