"""Whether two networks' attention can be compared at all."""

from __future__ import annotations

from typing import Any

from torch import nn

from gtacli.errors import UsageError


def require_cls(
    model: nn.Module, option: str = "rows", hint: str = "use rows=all (--rows all)"
) -> None:
    """Raise UsageError, with the option to change, for a model without a CLS token."""
    if getattr(model, "cls_token", None) is None:
        raise UsageError(f"{option}: this model has no CLS token, so it has no CLS row; {hint}")


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
