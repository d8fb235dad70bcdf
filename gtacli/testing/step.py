"""A training step of a regularizer on tiny networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from gtacli.config.parts import RegularizerOptions
from gtacli.models.tap import Request, TappedViT
from gtacli.models.weights import head_prefixes
from gtacli.regularizers.base import StepOutputs
from gtacli.testing.inputs import CLASSES, drawn_images, drawn_labels, half_precision, tiny_vit
from gtacli.testing.options import build_options
from gtacli.testing.promises import require


class Step:
    """A training step of a tiny target beside its frozen source.

    Args:
        part: the regularizer's class.
        given: values of its options.
        target, source: the networks; default: of different weights.
    """

    def __init__(
        self,
        part: Any,
        given: Mapping[str, Any],
        target: nn.Module | None = None,
        source: nn.Module | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.target = (target or tiny_vit(0)).to(self.device).train()
        self.source = (source or tiny_vit(1)).to(self.device).requires_grad_(False)
        self.head = head_prefixes(self.target)
        options = build_options(part, given, RegularizerOptions)
        self.part = part(options, self.target, self.source, self.head)
        self.part.start(self._read, CLASSES)

    @torch.no_grad()
    def _read(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return values of all training images, of which some class may have none."""
        images = drawn_images(3, tuple(cast(Any, self.source).patch_embed.img_size), seed=1)
        return function(images.to(self.device)).float().cpu(), drawn_labels(3)

    def outputs(self, images: Tensor | None = None, *, autocast: bool = False) -> StepOutputs:
        """Run both networks as the training does."""
        images = (drawn_images() if images is None else images).to(self.device)
        needs = self.part.needs
        with half_precision(self.device) if autocast else nullcontext():
            tapped = TappedViT(self.target, Request() | needs.target)
            target = tapped.unpack(tapped(images), images.shape)
            source = None
            if needs.source is not None:
                frozen = TappedViT(self.source, needs.source)
                with torch.no_grad():
                    source = frozen.unpack(frozen(images), images.shape)
        labels = drawn_labels(len(images)).to(self.device)
        return StepOutputs(target, source, labels, progress=0.5)

    def penalty(self, images: Tensor | None = None, *, autocast: bool = False) -> Tensor:
        """Return the penalty of a step."""
        outputs = self.outputs(images, autocast=autocast)
        with half_precision(self.device) if autocast else nullcontext():
            penalty: Tensor = self.part.penalty(outputs)
        return penalty

    def gradients(self, images: Tensor | None = None) -> dict[str, Tensor]:
        """Return the gradients of the penalty by parameter, of those that it reaches."""
        penalty = self.penalty(images)
        require_scalar(penalty, self.device)
        if not penalty.requires_grad:
            return {}
        learning = {n: p for n, p in self.target.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(penalty, [*learning.values()], allow_unused=True)
        return {n: g for n, g in zip(learning, found, strict=True) if g is not None}


def require_scalar(penalty: object, device: torch.device) -> None:
    """Raise BrokenPromise unless a penalty is a finite scalar in fp32 on a device."""
    require(isinstance(penalty, Tensor), f"penalty() returns {type(penalty).__name__}, no tensor")
    assert isinstance(penalty, Tensor)
    shape = tuple(penalty.shape)
    require(penalty.ndim == 0, f"penalty() returns the shape {shape}, not a scalar: take the mean")
    where = penalty.device.type
    require(where == device.type, f"penalty() is on {where}, the networks on {device.type}")
    require(math.isfinite(penalty.item()), f"penalty() is {penalty.item()}")
