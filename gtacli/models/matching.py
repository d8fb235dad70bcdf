"""Whether, and how, the attention of two networks can be compared.

Rows of logits belong to any two networks with a CLS token: rows on another patch grid are resized,
and where the numbers of heads differ the mean over the heads stands for them (both ours; GTA's
paper compares a network with its own past). Whatever else is compared, token by token or channel
by channel, has to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from gtacli.errors import UsageError
from gtacli.models.tap import absolute_layers


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
