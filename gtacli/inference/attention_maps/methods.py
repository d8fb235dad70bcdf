"""Methods for attention maps: the CLS token's attention, rollout, relevance, or a back-end.

Each is called with a batch and returns maps with their block and heads.

Shapes: B images, H heads, gh x gw patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gtacli.discovery.base import Discovery
from gtacli.errors import UsageError
from gtacli.measures.attention import mass_mask
from gtacli.models import timm_blocks
from gtacli.models.class_scores import TargetClass, check_classifier
from gtacli.models.rollout import rollout
from gtacli.models.tap import absolute_layers, attention, require_cls

Heads = str | tuple[int, ...]
""""max", "mean", "all", or numbers."""


@dataclass(frozen=True)
class AttentionMap:
    """One map of each image of a batch, or of a single image.

    Attributes:
        layer: absolute number of the block.
        heads: "max", "mean", a head's number, several, or "all"; None for a method without heads.
        maps: (B, gh, gw), or (B, H, gh, gw) of several heads; fp32, on the CPU. Of a single image
            without B.
        masks: bool of the same shape, the object's mask by the method.
    """

    layer: int
    heads: Any
    maps: Tensor
    masks: Tensor | None = None

    def select(self, image: int) -> AttentionMap:
        """Return the map of one image of the batch."""
        masks = None if self.masks is None else self.masks[image]
        return replace(self, maps=self.maps[image], masks=masks)


class MapMethod(Protocol):
    """A method that returns maps of normalized images (B, 3, h, w)."""

    def __call__(self, images: Tensor) -> list[AttentionMap]: ...


class ClsAttention:
    """The CLS token's attention: softmax of its row over all tokens, patch columns.

    Args:
        model: a ViT with a CLS token, in eval mode.
        layers: block numbers, "all" or "last".
        heads: "max" (as in GTA's figures) or "mean" over heads; "all" or numbers: one map each.
        mass: fraction of a map's mass that its mask holds (DINO: 0.6); None: no masks.
        together: several heads form one map (H, gh, gw), for arrays.

    Raises UsageError for a model without a CLS token, or a block or head that it does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int] | str,
        heads: Heads,
        mass: float | None = None,
        together: bool = False,
    ) -> None:
        timm_blocks.check(model)
        require_cls(model, "kind", "use `kind=tokencut`, or another back-end")
        blocks: Any = model.blocks
        self.model, self.mass, self.together = model, mass, together
        self.layers = absolute_layers(layers, len(blocks))
        self.count = min(int(blocks[layer].attn.num_heads) for layer in self.layers)
        self.heads = heads
        for head in heads if isinstance(heads, tuple) else ():
            if not 0 <= head < self.count:
                raise UsageError(
                    f"there is no head {head}; this model has {self.count}, numbered from 0",
                    option="heads",
                )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[AttentionMap]:
        extracted = []
        for tap in attention(self.model, images, self.layers):
            maps = tap.maps().float()
            for heads, chosen in self._chosen(maps):
                mask = None if self.mass is None else mass_mask(chosen, self.mass).cpu()
                extracted.append(AttentionMap(tap.layer, heads, chosen.cpu(), mask))
        return extracted

    def _chosen(self, maps_BHhw: Tensor) -> list[tuple[Any, Tensor]]:
        if self.heads == "max":
            return [("max", maps_BHhw.amax(1))]
        if self.heads == "mean":
            return [("mean", maps_BHhw.mean(1))]
        numbers = tuple(range(maps_BHhw.shape[1])) if self.heads == "all" else self.heads
        assert isinstance(numbers, tuple)
        if self.together and (self.heads == "all" or len(numbers) > 1):
            return [("all" if self.heads == "all" else numbers, maps_BHhw[:, list(numbers)])]
        return [(head, maps_BHhw[:, head]) for head in numbers]


class Rollout:
    """The rollout of the attention up to each of `layers` (see `gtacli.models.rollout`).

    Raises UsageError for a model without a CLS token, a block that it does not have, or heads that
    are not reduced to one.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[int] | str, heads: Heads, mass: float | None = None
    ) -> None:
        timm_blocks.check(model)
        require_cls(model, "kind", "use `kind=tokencut`, or another back-end")
        if heads not in ("mean", "max"):
            raise UsageError(
                "rollout reduces the heads to one: mean (published) or max", option="heads"
            )
        self.model, self.heads, self.mass = model, heads, mass
        self.layers = absolute_layers(layers, len(model.blocks))  # type: ignore[arg-type]

    def __call__(self, images: Tensor) -> list[AttentionMap]:
        maps = rollout(self.model, images, self.layers, self.heads).cpu()  # type: ignore[arg-type]
        return [
            AttentionMap(
                layer,
                self.heads,
                maps[:, i],
                None if self.mass is None else mass_mask(maps[:, i], self.mass),
            )
            for i, layer in enumerate(self.layers)
        ]


class ClassRelevance:
    """The relevance of each patch for a class, through all blocks.

    Args:
        relevance: `attnlrp` or `chefer`, called with model, images and class.
        name: of the kind.
        target: number of the class, or each image's predicted one.
        mass: see `ClsAttention`.
        signed: keep the relevance against the class; else it is 0.

    Raises UsageError for a model without a classifier or such a class.
    """

    def __init__(
        self,
        model: nn.Module,
        relevance: Callable[[nn.Module, Tensor, TargetClass], Tensor],
        name: str,
        target: TargetClass = "predicted",
        mass: float | None = None,
        signed: bool = False,
    ) -> None:
        timm_blocks.check(model)
        check_classifier(model, target, name)
        self.model, self.relevance, self.target = model, relevance, target
        self.mass, self.signed = mass, signed
        self.layer = len(model.blocks) - 1  # type: ignore[arg-type]

    def __call__(self, images: Tensor) -> list[AttentionMap]:
        maps = self.relevance(self.model, images, self.target).cpu()
        maps = maps if self.signed else maps.clamp_min(0)
        masks = None if self.mass is None else mass_mask(maps.clamp_min(0), self.mass)
        return [AttentionMap(self.layer, None, maps, masks)]


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
