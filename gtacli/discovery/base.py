"""The contract of a discovery back-end: images in, object maps on the patch grid out.

A plug-in subclasses `Discovery`, gives its options a Pydantic class, and names itself in the
entry-point group `gta.discovery`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from gtacli.config.parts import DiscoveryOptions

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel

O = TypeVar("O", bound=DiscoveryOptions)  # noqa: E741


@dataclass(frozen=True)
class Found:
    """Objects of B images on their patch grid, on the images' device.

    Attributes:
        maps: (B, gh, gw) fp32 in [0, 1], high on the object; 0 everywhere where there is none.
        masks: (B, gh, gw) bool, where the back-end has them.
        boxes: (B, 4) int64 in patches, [x0, y0, x1, y1), where the back-end has them.
        head_masks: (B, H, gh, gw) bool, one a head, of attention back-ends: DINO's evaluation
            takes the best of them for each object.
        objects: (B, K, gh, gw) bool, of a back-end that finds several: disjoint, the main one
            first, which `maps` and `masks` are of; empty where there are fewer.
    """

    maps: Tensor
    masks: Tensor | None = None
    boxes: Tensor | None = None
    head_masks: Tensor | None = None
    objects: Tensor | None = None


class Discovery(ABC, Generic[O]):
    """Finds the object in images that it knows nothing about.

    Args:
        options: its own options, validated.
        model: a pre-trained ViT, frozen and in eval mode; it is left as it is.
    """

    Options: ClassVar[type[DiscoveryOptions]] = DiscoveryOptions
    version: ClassVar[int] = 1
    """Of its maps: raised with every change of the code that changes them, so that a cache of
    earlier ones is not taken for the same."""

    def __init__(self, options: O, model: nn.Module) -> None:
        self.options = options
        self.model = model

    @classmethod
    def resolve(cls, options: O, model: LoadedModel) -> O:
        """`options` for this model, with a plain value for each one that is left to the back-end.

        Called once, before the back-end is made: what it returns is what maps are kept by.
        """
        return options

    @abstractmethod
    def find(self, images: Tensor) -> Found:
        """The objects of images (B, 3, h, w) that are normalised as the model wants them.

        On a CPU several threads may call it at once: what it needs of a batch is not kept in
        `self` nor in hooks on the model.
        """


def unit_range(maps_Bhw: Tensor) -> Tensor:
    """Maps in fp32, each scaled to [0, 1] by its minimum and maximum; a constant one becomes 0."""
    maps = maps_Bhw.float()
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
