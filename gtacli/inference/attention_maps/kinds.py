"""Kinds of maps: the CLS token's attention, attention rolled out, and what a discovery back-end
finds. Each is called with a batch and hands out maps with their block and heads.

Shapes: B images, H heads, gh x gw patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gtacli.discovery.base import Discovery
from gtacli.discovery.dino import mass_mask
from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.rollout import rollout
from gtacli.models.tap import absolute_layers, attention, require_cls

Heads = str | tuple[int, ...]
"""max, mean, all, or numbers."""


@dataclass(frozen=True)
class Seen:
    """One map of each image of a batch, or of one of them.

    Attributes:
        layer: absolute number of the block.
        heads: max, mean, a head's number, several, or "all"; None where a kind has no heads.
        maps: (B, gh, gw), or (B, H, gh, gw) of several heads; fp32, on the CPU. Of one image
            without B.
        masks: bool of the same shape, what the kind takes for the object.
    """

    layer: int
    heads: Any
    maps: Tensor
    masks: Tensor | None = None

    def of(self, image: int) -> Seen:
        """One image's."""
        masks = None if self.masks is None else self.masks[image]
        return replace(self, maps=self.maps[image], masks=masks)


class Kind(Protocol):
    """Maps of images (B, 3, h, w) that are normalised as the model wants them."""

    def __call__(self, images: Tensor) -> list[Seen]: ...


class ClsAttention:
    """Softmax of the CLS token's row over all tokens, patch columns.

    Args:
        model: a ViT with a CLS token, in eval mode.
        layers: block numbers, "all" or "last".
        heads: "max" (as in GTA's figures) or "mean" over heads; "all" or numbers: each by itself.
        mass: share of a map's mass that its mask holds (DINO: 0.6); None: no masks.
        together: several heads are one map (H, gh, gw), for arrays.

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
        require_cls(model, "--kind cls", "use --kind tokencut, or another back-end")
        blocks: Any = model.blocks
        self.model, self.mass, self.together = model, mass, together
        self.layers = absolute_layers(layers, len(blocks))
        self.count = min(int(blocks[layer].attn.num_heads) for layer in self.layers)
        self.heads = heads
        for head in heads if isinstance(heads, tuple) else ():
            if not 0 <= head < self.count:
                raise UsageError(
                    f"--heads: there is no head {head}; this model has {self.count}, "
                    "numbered from 0"
                )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Seen]:
        seen = []
        for tap in attention(self.model, images, self.layers):
            maps = tap.maps().float()
            for heads, chosen in self._chosen(maps):
                mask = None if self.mass is None else mass_mask(chosen, self.mass).cpu()
                seen.append(Seen(tap.layer, heads, chosen.cpu(), mask))
        return seen

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
    """Attention rolled out to each of `layers` (see `gtacli.models.rollout`).

    Raises UsageError for a model without a CLS token, a block that it does not have, or heads that
    are not reduced to one.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[int] | str, heads: Heads, mass: float | None = None
    ) -> None:
        timm_blocks.check(model)
        require_cls(model, "--kind rollout", "use --kind tokencut, or another back-end")
        if heads not in ("mean", "max"):
            raise UsageError("--heads: rollout reduces the heads to one: mean (published) or max")
        self.model, self.heads, self.mass = model, heads, mass
        self.layers = absolute_layers(layers, len(model.blocks))  # type: ignore[arg-type]

    def __call__(self, images: Tensor) -> list[Seen]:
        maps = rollout(self.model, images, self.layers, self.heads).cpu()  # type: ignore[arg-type]
        return [
            Seen(
                layer,
                self.heads,
                maps[:, i],
                None if self.mass is None else mass_mask(maps[:, i], self.mass),
            )
            for i, layer in enumerate(self.layers)
        ]


class Found:
    """Maps of a discovery back-end, at the block that it reads.

    Args:
        mass: share of a map's mass in its mask, where the back-end has no masks of its own; None:
            no masks.
    """

    def __init__(self, backend: Discovery[Any], mass: float | None = None) -> None:
        self.backend, self.mass = backend, mass
        blocks: Any = backend.model.blocks
        self.layer = absolute_layers((backend.options.layer,), len(blocks))[0]

    def __call__(self, images: Tensor) -> list[Seen]:
        found = self.backend.find(images)
        masks = found.masks
        if self.mass is None:
            masks = None
        elif masks is None:
            masks = mass_mask(found.maps, self.mass)
        return [Seen(self.layer, None, found.maps.cpu(), None if masks is None else masks.cpu())]
