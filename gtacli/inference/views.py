"""Pixels as several networks want them: each with its own input size and preprocessing, every
distinct view made once, in the thread that reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gtacli.images.preprocessing import eval_view
from gtacli.models.loading import LoadedModel
from gtacli.runtime.devices import Compute


class Views:
    """Of networks in eval mode on the device, where they are moved."""

    def __init__(self, models: Sequence[LoadedModel], compute: Compute) -> None:
        self.device = compute.device
        for model in models:
            model.model.eval().to(compute.device)
        ways = [(m.image_size, m.crop_pct, m.interpolation) for m in models]
        self._ways = list(dict.fromkeys(ways))
        self._way_of = [self._ways.index(way) for way in ways]
        self._inputs = [model.view(compute.device) for model in models]

    def make(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (3, h, w) -> uint8, one for each distinct way in which the networks see images."""
        return tuple(eval_view(pixels, *way) for way in self._ways)

    def batch(self, model: int, views: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """What network number `model` is given: (B, 3, h, w), normalised, on the device."""
        pixels = torch.stack([view[self._way_of[model]] for view in views])
        return self._inputs[model](pixels.to(self.device))
