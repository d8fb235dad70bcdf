"""The interface of a discovery back-end: it returns object maps on the patch grid of images.

A plug-in subclasses `Discovery`, defines a Pydantic class for its options, and registers itself in
the entry-point group `gta.discovery`.
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
class ObjectMaps:
    """Maps of the objects in B images on their patch grid, on the images' device.

    Attributes:
        maps: (B, gh, gw) fp32 in [0, 1], high on the object; all 0 without an object.
        masks: (B, gh, gw) bool, if the back-end computes them.
        boxes: (B, 4) int64 in patches, [x0, y0, x1, y1), if the back-end computes them.
        head_masks: (B, H, gh, gw) bool, one per head, from attention back-ends: DINO's evaluation
            takes the best of them for each object.
        objects: (B, K, gh, gw) bool, from back-ends that find several objects: disjoint masks, the
            one of `maps` and `masks` first; empty masks if there are fewer objects.
    """

    maps: Tensor
    masks: Tensor | None = None
    boxes: Tensor | None = None
    head_masks: Tensor | None = None
    objects: Tensor | None = None

    def first(self, count: int) -> ObjectMaps:
        """Return the maps of the first images."""
        values = (self.masks, self.boxes, self.head_masks, self.objects)
        return ObjectMaps(self.maps[:count], *(v if v is None else v[:count] for v in values))


class Discovery(ABC, Generic[O]):
    """A back-end that finds objects in images without labels.

    Args:
        options: the back-end's validated options.
        model: a pre-trained ViT, frozen and in eval mode; it must not be changed.

    Attributes:
        Options: class of the options.
        needs_gradients: whether it computes gradients; without, maps are drawn on kernels that are
            faster on a CPU, and have none.
        version: raise it with every change of the code that changes the maps, so that cached maps
            of an earlier version are not used.
    """

    Options: ClassVar[type[DiscoveryOptions]] = DiscoveryOptions
    needs_gradients: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __init__(self, options: O, model: nn.Module) -> None:
        self.options = options
        self.model = model

    @classmethod
    def resolve(cls, options: O, model: LoadedModel) -> O:
        """Return `options` with a value for each option that depends on the model ("auto").

        Called once, before the back-end is created; cached maps are keyed by the result.
        """
        return options

    @abstractmethod
    def find(self, images: Tensor) -> ObjectMaps:
        """Find the objects in images (B, 3, h, w), normalized for the model.

        On a CPU several threads may call it at once: state of a batch must not be stored in `self`
        or in hooks on the model.
        """


def unit_range(maps_Bhw: Tensor) -> Tensor:
    """Scale each map to [0, 1] by its minimum and maximum, in fp32; a constant map becomes 0."""
    maps = maps_Bhw.float()
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
