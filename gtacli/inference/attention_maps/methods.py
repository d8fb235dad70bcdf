"""Kinds of attention maps: the CLS token's attention, rollout, relevance, and any back-end's maps.

Shapes: B images, H heads, gh x gw patches.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from gtacli.config.parts import (
    AttnLRPOptions,
    ClassMapOptions,
    ClsMapOptions,
    MapOptions,
    RolloutOptions,
)
from gtacli.discovery.base import Discovery
from gtacli.errors import UsageError
from gtacli.inference.attention_maps.base import AttentionMap, MapKind
from gtacli.measures.attention import mass_mask
from gtacli.models import timm_blocks
from gtacli.models.attnlrp import attnlrp
from gtacli.models.chefer import chefer
from gtacli.models.class_scores import check_classifier
from gtacli.models.loading import LoadedModel
from gtacli.models.rollout import rollout
from gtacli.models.tap import absolute_layers, attention, require_cls


class ClsAttention(MapKind[ClsMapOptions]):
    """The CLS token's attention: softmax of its row over all tokens, patch columns.

    The maximum over heads is shown in GTA's figures.

    Raises UsageError for a model without a CLS token, or a block or head that it does not have.
    """

    Options: ClassVar[type[MapOptions]] = ClsMapOptions
    needs_gradients: ClassVar[bool] = False
    needs_cls: ClassVar[bool] = True

    def __init__(
        self,
        options: ClsMapOptions,
        model: LoadedModel,
        mass: float | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__(options, model, mass, raw)
        self.network, self.layers = _with_cls(model, options.layer)
        blocks: Any = self.network.blocks
        count = min(int(blocks[layer].attn.num_heads) for layer in self.layers)
        for head in options.heads if isinstance(options.heads, tuple) else ():
            if not 0 <= head < count:
                raise UsageError(
                    f"there is no head {head}; this model has {count}, numbered from 0",
                    option="heads",
                )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[AttentionMap]:
        """Return a map for each block, or each block and head."""
        extracted = []
        for tap in attention(self.network, images, self.layers):
            maps = tap.maps().float()
            for heads, chosen in self._chosen(maps):
                mask = None if self.mass is None else mass_mask(chosen, self.mass).cpu()
                extracted.append(AttentionMap(tap.layer, heads, chosen.cpu(), mask))
        return extracted

    def _chosen(self, maps_BHhw: Tensor) -> list[tuple[Any, Tensor]]:
        heads = self.options.heads
        if heads == "max":
            return [("max", maps_BHhw.amax(1))]
        if heads == "mean":
            return [("mean", maps_BHhw.mean(1))]
        numbers = tuple(range(maps_BHhw.shape[1])) if heads == "all" else heads
        assert isinstance(numbers, tuple)
        if self.raw and (heads == "all" or len(numbers) > 1):
            return [("all" if heads == "all" else numbers, maps_BHhw[:, list(numbers)])]
        return [(head, maps_BHhw[:, head]) for head in numbers]


class Rollout(MapKind[RolloutOptions]):
    """The rollout of the attention up to each of some blocks (see `gtacli.models.rollout`).

    Raises UsageError for a model without a CLS token, a block that it does not have, or heads that
    are not reduced to one.
    """

    Options: ClassVar[type[MapOptions]] = RolloutOptions
    needs_gradients: ClassVar[bool] = False
    needs_cls: ClassVar[bool] = True

    def __init__(
        self,
        options: RolloutOptions,
        model: LoadedModel,
        mass: float | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__(options, model, mass, raw)
        self.network, self.layers = _with_cls(model, options.layer)
        if options.heads not in ("mean", "max"):
            raise UsageError(
                "rollout reduces the heads to one: mean (published) or max", option="heads"
            )

    def __call__(self, images: Tensor) -> list[AttentionMap]:
        """Return a map for each block."""
        heads: Any = self.options.heads
        maps = rollout(self.network, images, self.layers, heads).cpu()
        return [
            AttentionMap(
                layer,
                heads,
                maps[:, i],
                None if self.mass is None else mass_mask(maps[:, i], self.mass),
            )
            for i, layer in enumerate(self.layers)
        ]


def _with_cls(model: LoadedModel, layers: Any) -> tuple[Any, tuple[int, ...]]:
    """Return the network of a model with a CLS token, and absolute numbers of blocks."""
    network: Any = model.model
    timm_blocks.check(network)
    require_cls(network, "kind", "use `kind=tokencut`, or another back-end")
    return network, absolute_layers(layers, len(network.blocks))


class ClassRelevance(MapKind[ClassMapOptions]):
    """The relevance of each patch for a class, through all blocks.

    Raises UsageError for a model without a classifier or such a class.
    """

    Options: ClassVar[type[MapOptions]] = ClassMapOptions

    def __init__(
        self,
        options: ClassMapOptions,
        model: LoadedModel,
        mass: float | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__(options, model, mass, raw)
        network: Any = model.model
        timm_blocks.check(network)
        check_classifier(network, options.target_class, type(self).__name__)
        self.network, self.layer = network, len(network.blocks) - 1

    @abstractmethod
    def relevance(self, images: Tensor) -> Tensor:
        """Return the relevance (B, gh, gw); evidence against the class is negative."""

    def __call__(self, images: Tensor) -> list[AttentionMap]:
        """Return one map."""
        maps = self.relevance(images).cpu()
        maps = maps if self.raw else maps.clamp_min(0)
        masks = None if self.mass is None else mass_mask(maps.clamp_min(0), self.mass)
        return [AttentionMap(self.layer, None, maps, masks)]


class AttnLRP(ClassRelevance):
    """The relevance by AttnLRP (see `gtacli.models.attnlrp`)."""

    Options: ClassVar[type[MapOptions]] = AttnLRPOptions
    options: AttnLRPOptions

    def relevance(self, images: Tensor) -> Tensor:
        return attnlrp(self.network, images, self.options.target_class, self.options.gamma)


class Chefer(ClassRelevance):
    """The relevance by Chefer et al. (see `gtacli.models.chefer`)."""

    def relevance(self, images: Tensor) -> Tensor:
        return chefer(self.network, images, self.options.target_class)


class BackendMaps:
    """The maps of a discovery back-end, at the block that it reads.

    Args:
        mass: fraction of a map's mass in its mask, if the back-end has no masks of its own; None:
            no masks.
    """

    def __init__(self, backend: Discovery[Any], mass: float | None = None) -> None:
        self.backend, self.mass = backend, mass
        blocks: Any = backend.model.blocks
        self.layer = absolute_layers((backend.options.layer,), len(blocks))[0]

    def __call__(self, images: Tensor) -> list[AttentionMap]:
        found = self.backend.find(images)
        masks = None
        if self.mass is not None:
            masks = mass_mask(found.maps, self.mass) if found.masks is None else found.masks
            masks = masks.cpu()
        return [AttentionMap(self.layer, None, found.maps.cpu(), masks)]
