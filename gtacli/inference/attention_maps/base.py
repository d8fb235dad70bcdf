"""The interface of a kind of attention maps: it returns maps of images on their patch grid.

A plug-in subclasses `MapKind`, defines a Pydantic class for its options, and registers itself in
the entry-point group `gta.maps`. A discovery back-end is a kind of maps without that.

Shapes: B images, H heads, gh x gw patches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

from gtacli.config.parts import MapOptions
from gtacli.models.loading import LoadedModel

O = TypeVar("O", bound=MapOptions)  # noqa: E741


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


class MapKind(ABC, Generic[O]):
    """A kind of maps of a model.

    Args:
        options: the kind's validated options.
        model: in eval mode; its network is frozen and must not be changed.
        mass: fraction of a map's mass that its mask holds (DINO: 0.6); None: no masks.
        raw: whether the maps become arrays, not pictures: they may then be negative, and those of
            several heads are one map (H, gh, gw).

    Raises UsageError for a model that it does not support.

    Attributes:
        Options: class of the options.
        needs_gradients: whether it computes gradients; without, the network runs on kernels that
            are faster on a CPU, and have none.
        needs_cls: whether it needs a model with a CLS token.
    """

    Options: ClassVar[type[MapOptions]] = MapOptions
    needs_gradients: ClassVar[bool] = True
    needs_cls: ClassVar[bool] = False

    def __init__(
        self, options: O, model: LoadedModel, mass: float | None = None, raw: bool = False
    ) -> None:
        self.options, self.model = options, model
        self.mass, self.raw = mass, raw

    @abstractmethod
    def __call__(self, images: Tensor) -> list[AttentionMap]:
        """Return the maps of images (B, 3, h, w), normalized for the model.

        It is called without gradients, maybe by several threads at once: state of a batch must
        not be stored in `self` or in hooks on the model.
        """
