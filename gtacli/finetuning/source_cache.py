"""The cache behind `source_views`: the source's attention, computed once for K views of each image.

The source never changes, so neither does its attention on a view. Every image is augmented in K
ways and no more; the source is run on each of these views before the first step, and from then on
a step with GTA costs what a plain one does. The price is K views instead of one an epoch, and
memory: blocks x heads x tokens x 4 bytes a view (57 kB for a ViT-S/16 at 224 pixels). This is our
extension; GTA's paper runs the source in every step.

The cache is filled from the batches of the first K epochs, also in a resumed run, so that it
computes the same bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from gtacli.data.loader import Batch
from gtacli.errors import UsageError
from gtacli.models.tap import Request, TapTensors
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.runtime.machine import available_memory
from gtacli.training.loop import stand_in

log = logging.getLogger(__name__)


class SourceCache:
    """The source's CLS rows of attention logits, by view and image.

    Args:
        request: what the steps need from the source.
        heads, tokens: of its attention.
        images: number of images.
        views: number of views of each image, K.

    Raises UsageError for a request of more than the CLS rows, or for rows that would not fit into
    half of the free memory.
    """

    def __init__(self, request: Request, heads: int, tokens: int, images: int, views: int) -> None:
        if request.rows != "cls" or request.msa or request.hidden or request.features:
            raise UsageError(
                "caches only the CLS token's attention logits; use `guide=logits` and `rows=cls`",
                option="source_views",
            )
        self.shape = _shape(request, heads, tokens, images, views)
        self.views = views
        needed, free = 4 * math.prod(self.shape), available_memory()
        if free is not None and needed > free / 2:
            raise UsageError(
                f"{views} views of {images} images need {needed / 2**30:.1f} GB, but half of the "
                f"free memory is {free / 2**31:.1f} GB; use fewer views, or leave it out",
                option="source_views",
            )
        self._rows: Tensor | None = None  # (K, images, L, H, P+N) fp32

    def fits(self, request: Request, heads: int, tokens: int, images: int, views: int) -> bool:
        """Return whether a cache of these properties would be like this one."""
        return self.shape == _shape(request, heads, tokens, images, views)

    def outputs(self, epoch: int, indices: Tensor, device: torch.device) -> TapTensors:
        """Return the source's outputs for images (B,) in the views of this epoch."""
        assert self._rows is not None
        rows = self._rows[epoch % self.views, indices].unsqueeze(-2).to(device, non_blocking=True)
        return TapTensors(None, None, tuple(rows.unbind(1)), (), (), (), ())

    @torch.no_grad()
    def fill(
        self,
        batches: Callable[[int, int], Iterable[Batch]],
        run: Callable[[Tensor], TapTensors],
        processes: Processes = ALONE,
        max_batches: int | None = None,
    ) -> None:
        """Run the source on every view, unless that has been done; processes share the work.

        Args:
            batches: (epoch, first batch) -> the batches of an epoch.
            run: uint8 views (B, 3, h, w) -> the source's outputs.
            max_batches: stop each view after so many batches (for a dry run).
        """
        if self._rows is not None:
            return
        started = time.perf_counter()
        rows = torch.zeros(self.shape)
        for view in range(self.views):
            for number, batch in enumerate(batches(view, 0)):
                if max_batches is not None and number >= max_batches:
                    break
                # Also without images: processes that share the source's weights run it together.
                images = batch.images if len(batch.images) else stand_in(batch).images
                attention = torch.stack(run(images).row, 1).squeeze(-2)
                rows[view, batch.indices] = attention.cpu()[: len(batch.images)]
        # Each process has filled the rows of its own images; the others are zero.
        self._rows = processes.all_reduce(rows)
        log.info(
            "cached the source's attention on %d views of %d images: %.0f MB, %.0f s",
            *self.shape[:2],
            self._rows.nbytes / 2**20,
            time.perf_counter() - started,
        )


def _shape(
    request: Request, heads: int, tokens: int, images: int, views: int
) -> tuple[int, int, int, int, int]:
    return views, images, len(request.layers), heads, tokens
