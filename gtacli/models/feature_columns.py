"""Feature columns: the CLS token or the mean patch token of a block, as one vector an image.

Every block's output passes through the model's final norm, as in DINO's and dinov2's evaluations.
So the last block's CLS column is the input of a classifier on the CLS token, and its mean column
the input of one on the pooled patches (neither includes registers). A model that normalizes after
pooling (timm's `fc_norm`) does so here too.

Shapes: B images, P prefix tokens, N patches, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.models.tap import Request, TappedViT, absolute_layers, has_cls

Pool = Literal["cls", "mean"]


class FeatureColumn(NamedTuple):
    """A feature vector of an image.

    Attributes:
        layer: absolute number of the block.
        pool: the CLS token, or the mean of the patches.
    """

    layer: int
    pool: Pool


def select_columns(
    model: nn.Module, features: str, layers: Sequence[int] | str = "last"
) -> tuple[FeatureColumn, ...]:
    """Return the columns of `cls`, `mean` or `cls+mean` of some blocks: all CLS tokens first.

    Args:
        layers: block numbers, negative ones from the end; "all" or "last".

    Raises UsageError for a block, or a CLS token, that the model does not have.
    """
    pools = cast(list[Pool], features.split("+"))
    if "cls" in pools and not has_cls(model):
        raise UsageError("this model has no CLS token; use `features=mean`", option="features")
    numbers = absolute_layers(layers, len(cast(Any, model).blocks))
    return tuple(FeatureColumn(layer, pool) for pool in pools for layer in numbers)


def name_features(columns: Sequence[FeatureColumn]) -> str:
    """Return `cls`, `mean` or `cls+mean`."""
    return "+".join(dict.fromkeys(column.pool for column in columns))


class PooledFeatures(nn.Module):
    """A model that maps normalized images (B, 3, h, w) to a tensor (B, C) for each column."""

    def __init__(self, model: nn.Module, columns: Sequence[FeatureColumn]) -> None:
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
