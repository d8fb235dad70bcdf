"""Inputs of several models, each with its own size and preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gtacli.images.preprocessing import make_eval_view
from gtacli.models.loading import LoadedModel
from gtacli.runtime.devices import Compute


class ModelViews:
    """Prepares inputs for several models; moves them to the device in eval mode.

    Models with the same preprocessing share a view, which is made in the reading thread.
    """

    def __init__(self, models: Sequence[LoadedModel], compute: Compute) -> None:
        self.device = compute.device
        for model in models:
            model.model.eval().to(compute.device)
        settings = [(m.image_size, m.crop_pct, m.interpolation) for m in models]
        self._settings = list(dict.fromkeys(settings))
        self._setting_of = [self._settings.index(setting) for setting in settings]
        self._inputs = [model.view(compute.device) for model in models]

    def make(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return a uint8 view of an image, uint8 (3, h, w), for each distinct preprocessing."""
        return tuple(make_eval_view(pixels, *setting) for setting in self._settings)

    def batch(self, model: int, views: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Return the input of model number `model`: (B, 3, h, w), normalized, on the device."""
        pixels = torch.stack([view[self._setting_of[model]] for view in views])
        return self._inputs[model](pixels.to(self.device))
