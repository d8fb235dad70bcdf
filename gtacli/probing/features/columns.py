"""What is taken of a network for an image: columns, each a token's or the patches' mean vector.

A block's output passes through the network's final norm, whichever block it is, as in DINO's and
dinov2's evaluations; so the last block's CLS column is what a classifier on the CLS token sees, and
the mean column what one on the pooled patches sees (registers are in neither). A network that
normalises after pooling (timm's `fc_norm`) does so here too.

Shapes: B images, P prefix tokens, N patches, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.models.tap import Request, TappedViT, absolute_layers

Pool = Literal["cls", "mean"]


class Column(NamedTuple):
    """Attributes:
    layer: absolute number of the block.
    pool: the CLS token, or the mean of the patches.
    """

    layer: int
    pool: Pool


def columns_of(
    model: nn.Module, features: str, layers: Sequence[int] | str = "last"
) -> tuple[Column, ...]:
    """The columns that `cls`, `mean` or `cls+mean` of some blocks stand for: first all CLS tokens.

    Args:
        layers: block numbers, from the end if negative; "all" or "last".

    Raises UsageError for a block, or a CLS token, that the model does not have.
    """
    pools = cast(list[Pool], features.split("+"))
    if "cls" in pools and getattr(model, "cls_token", None) is None:
        raise UsageError("--features: this model has no CLS token; use --features mean")
    numbers = absolute_layers(layers, len(cast(Any, model).blocks))
    return tuple(Column(layer, pool) for pool in pools for layer in numbers)


def features_named(columns: Sequence[Column]) -> str:
    """`cls`, `mean` or `cls+mean`."""
    return "+".join(dict.fromkeys(column.pool for column in columns))


class Columns(nn.Module):
    """(B, 3, h, w), already normalised -> a tensor (B, C) for each of at least one column."""

    def __init__(self, model: nn.Module, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        layers = tuple(sorted({column.layer for column in columns}))
        self.tapped = TappedViT(model, Request(hidden=layers, output=False))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        model, prefix = self.tapped.model, self.tapped.num_prefix_tokens
        hidden = dict(zip(self.tapped.request.hidden, self.tapped(images).hidden, strict=True))
        tokens = {layer: model.norm(x) for layer, x in hidden.items()}
        pooled = (
            tokens[layer][:, 0] if pool == "cls" else tokens[layer][:, prefix:].mean(1)
            for layer, pool in self.columns
        )
        return tuple(model.fc_norm(x) for x in pooled)
