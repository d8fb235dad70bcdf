"""One model that looks at images: what it wants to see of each, and the maps it hands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.images.preprocessing import InputView
from gtacli.images.sizes import Size, own_aspect
from gtacli.inference.attention_maps.kinds import Kind, Seen
from gtacli.models.loading import LoadedModel
from gtacli.runtime.devices import Compute


@dataclass(frozen=True)
class Looker:
    """A model with the kind of its maps.

    Attributes:
        name: what it is called in titles and folders.
        model: loaded for images of any size, unless all are stretched.
        kind: made with it.
        kind_name: as --kind names it.
        stretched: every image is brought to the model's size; else it keeps its own aspect, at
            about as many patches.
    """

    name: str
    model: LoadedModel
    kind: Kind
    kind_name: str = "cls"
    stretched: bool = False

    @property
    def patches(self) -> int:
        return self.model.grid[0] * self.model.grid[1]

    def size_of(self, image: Size) -> Size:
        """(h, w) at which it sees an image of (h, w)."""
        if self.stretched:
            return self.model.image_size
        patch = tuple(s // g for s, g in zip(self.model.image_size, self.model.grid, strict=True))
        return own_aspect(image, self.model.image_size, (patch[0], patch[1]))

    def view(self, pixels: Tensor) -> Tensor:
        """Pixels (3, h, w) uint8 as it sees them, still uint8."""
        size = self.size_of((pixels.shape[-2], pixels.shape[-1]))
        if pixels.shape[-2:] == size:
            return pixels
        how = InterpolationMode(self.model.interpolation)
        return F.resize(pixels, list(size), how, antialias=True)

    def look(self, views: Sequence[Tensor], compute: Compute) -> list[list[Seen]]:
        """The maps of each view, views of equal size in one batch."""
        groups: dict[Any, list[int]] = {}
        for i, view in enumerate(views):
            groups.setdefault(view.shape, []).append(i)
        seen: list[list[Seen]] = [[] for _ in views]
        for shape, members in groups.items():
            as_input = InputView(
                (shape[-2], shape[-1]), self.model.mean, self.model.std, compute.device
            )
            batch = torch.stack([views[i] for i in members]).to(compute.device)
            with torch.no_grad(), compute.autocast():
                maps = self.kind(as_input(batch))
            for j, i in enumerate(members):
                seen[i] = [one.of(j) for one in maps]
        return seen
