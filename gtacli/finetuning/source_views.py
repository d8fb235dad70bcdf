"""`--source-views K`: the source's attention on K views of every image, computed once and kept.

The source never changes, so on a view that it has seen it has nothing new to say. Here every
image's augmentation is drawn K times and no more; the source reads each of these views before the
first step, and from then on a step with GTA costs what a plain one does. The price is K views
instead of one an epoch, and memory: blocks x heads x tokens x 4 bytes a view (of a ViT-S/16 at 224
pixels 57 kB). Ours; GTA's paper runs the source in every step.

Everything is read in the batches of the first K epochs, also by a resumed run, so that it ends
with the same bits.
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

log = logging.getLogger(__name__)


class SourceViews:
    """Rows of the source's CLS token by view and image.

    Args:
        asked: what the source is asked for in a step.
        heads, tokens: of its attention.
        images: how many there are.
        views: K.

    Raises UsageError for a request of more than the CLS rows, or for rows that would not fit into
    half of the free memory.
    """

    def __init__(self, asked: Request, heads: int, tokens: int, images: int, views: int) -> None:
        if asked.rows != "cls" or asked.msa or asked.hidden or asked.features:
            raise UsageError(
                "--source-views: keeps the CLS token's rows of logits alone; it goes with "
                "--guide logits and --rows cls"
            )
        self.shape = (views, images, len(asked.layers), heads, tokens)
        self.views = views
        needed, free = 4 * math.prod(self.shape), available_memory()
        if free is not None and needed > free / 2:
            raise UsageError(
                f"--source-views: {views} views of {images} images need {needed / 2**30:.1f} GB, "
                f"half of the free memory is {free / 2**31:.1f} GB; take fewer, or leave it out"
            )
        self._rows: Tensor | None = None  # (K, images, L, H, P+N) fp32
        self._now: tuple[int, Tensor] = (0, torch.empty(0, dtype=torch.int64))

    def look(self, epoch: int, indices: Tensor) -> None:
        """The next step shows these images (B,) in the views of this epoch."""
        self._now = (epoch % self.views, indices)

    def __call__(self, device: torch.device) -> TapTensors:
        """What the source would return for the views of the next step."""
        assert self._rows is not None
        view, indices = self._now
        rows = self._rows[view, indices].unsqueeze(-2).to(device, non_blocking=True)
        return TapTensors(None, None, tuple(rows.unbind(1)), (), (), (), ())

    @torch.no_grad()
    def fill(
        self,
        batches: Callable[[int, int], Iterable[Batch]],
        read: Callable[[Tensor], TapTensors],
        processes: Processes = ALONE,
        last: int | None = None,
    ) -> None:
        """Read every view, unless that is done; processes share the work.

        Args:
            batches: (epoch, first batch) -> the batches of an epoch.
            read: pixels (B, 3, h, w) -> what the source returns for them.
            last: stop each view after so many batches (a dry run).
        """
        if self._rows is not None:
            return
        started = time.perf_counter()
        rows = torch.zeros(self.shape)
        for view in range(self.views):
            for number, (images, _, indices, *_) in enumerate(batches(view, 0)):
                if last is not None and number >= last:
                    break
                if len(images):
                    rows[view, indices] = torch.stack(read(images).row, 1).squeeze(-2).cpu()
        # Each process has filled its own images and left the others' at zero.
        self._rows = processes.all_reduce(rows)
        seconds = time.perf_counter() - started
        log.info(
            "the source has read %d views of %d images: %.0f MB, %.0f s",
            *self.shape[:2], self._rows.nbytes / 2**20, seconds,
        )  # fmt: skip
