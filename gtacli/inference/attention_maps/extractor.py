"""A model with the method that computes its attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.images.preprocessing import InputView
from gtacli.images.sizes import Size, fit_aspect
from gtacli.inference.attention_maps.base import AttentionMap, MapMethod
from gtacli.models.loading import LoadedModel
from gtacli.models.registers import describe_registers
from gtacli.runtime.devices import Compute


@dataclass(frozen=True)
class MapExtractor:
    """A model that attention maps are extracted from.

    Attributes:
        name: of the model in titles and folders.
        model: loaded for images of any size, unless all are stretched.
        method: made with the model.
        kind: the method's name, as the option `kind` has it.
        fingerprint: of the model, before it was packed.
        stretched: resize every image to the model's size; otherwise each keeps its aspect ratio,
            at about as many patches.
    """

    name: str
    model: LoadedModel
    method: MapMethod
    kind: str = "cls"
    stretched: bool = False
    fingerprint: str = ""

    def describe(self) -> dict[str, Any]:
        """Return the model's spec, fingerprint and test-time registers, for run.json."""
        about = {"spec": self.model.spec, "fingerprint": self.fingerprint}
        return {**about, **describe_registers(self.model.model)}

    @property
    def options(self) -> dict[str, Any]:
        """The options of the method, or of the discovery back-end that is one."""
        options = getattr(getattr(self.method, "backend", self.method), "options", None)
        return {} if options is None else cast(dict[str, Any], options.model_dump(mode="json"))

    @property
    def patches(self) -> int:
        """The number of patches of an image, or about as many."""
        return self.model.grid[0] * self.model.grid[1]

    def input_size(self, image: Size) -> Size:
        """Return the (h, w) of the model's input for an image of (h, w)."""
        if self.stretched:
            return self.model.image_size
        patch = tuple(s // g for s, g in zip(self.model.image_size, self.model.grid, strict=True))
        return fit_aspect(image, self.model.image_size, (patch[0], patch[1]))

    def view(self, pixels: Tensor) -> Tensor:
        """Resize pixels, uint8 (3, h, w), to the model's input size."""
        size = self.input_size((pixels.shape[-2], pixels.shape[-1]))
        if pixels.shape[-2:] == size:
            return pixels
        how = InterpolationMode(self.model.interpolation)
        return F.resize(pixels, list(size), how, antialias=True)

    def extract(self, views: Sequence[Tensor], compute: Compute) -> list[list[AttentionMap]]:
        """Return the maps of each view; views of equal size form one batch."""
        groups: dict[Any, list[int]] = {}
        for i, view in enumerate(views):
            groups.setdefault(view.shape, []).append(i)
        extracted: list[list[AttentionMap]] = [[] for _ in views]
        for shape, members in groups.items():
            as_input = InputView(
                (shape[-2], shape[-1]), self.model.mean, self.model.std, compute.device
            )
            batch = torch.stack([views[i] for i in members]).to(compute.device)
            with torch.no_grad(), compute.autocast():
                maps = self.method(as_input(batch))
            for j, i in enumerate(members):
                extracted[i] = [one.select(j) for one in maps]
        return extracted
