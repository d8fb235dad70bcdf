"""Whether two networks' attention can be compared at all."""

from __future__ import annotations

from typing import Any

from torch import nn

from gtacli.errors import UsageError


def require_cls(model: nn.Module) -> None:
    """Raise UsageError for a model that has no CLS token to look through."""
    if getattr(model, "cls_token", None) is None:
        raise UsageError(
            "rows: this model has no CLS token, so it has no CLS row; use rows=all (--rows all)"
        )


def require_match(target: nn.Module, source: nn.Module) -> None:
    """Raise UsageError, naming what differs, unless both have the same blocks, heads, widths,
    patches and prefix tokens."""
    for what, of in _MEASURES.items():
        t, s = of(target), of(source)
        if t != s:
            raise UsageError(f"--source: the model has {t} {what}, the source {s}; they must match")


_MEASURES: dict[str, Any] = {
    "blocks": lambda m: len(m.blocks),
    "attention heads": lambda m: m.blocks[0].attn.num_heads,
    "dimensions": lambda m: m.embed_dim,
    "patches": lambda m: "x".join(map(str, m.patch_embed.grid_size)),
    "prefix tokens": lambda m: m.num_prefix_tokens,
}
