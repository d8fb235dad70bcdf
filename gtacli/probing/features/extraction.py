"""A network's columns of many images, as a stream: threads decode ahead, the network never waits.

An image is seen as DINO's evaluations see it: the shorter side resized to 256/224 of the input,
bicubic, the centre cut out, the model's own mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.base import Record
from gtacli.errors import RunError
from gtacli.images.decode import ImageError, load
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.columns import Column, Columns
from gtacli.runtime.batching import chunk_size, chunks, fits_one_core, thread_count
from gtacli.runtime.devices import Compute
from gtacli.runtime.prefetch import ahead
from gtacli.runtime.threads import one_thread

Described = Tensor | str
"""An image's columns, fp32 (columns, C) on the CPU, or why it cannot be read."""


class Extractor:
    """Makes columns of images with one network, which is moved to the device.

    Args:
        batch_size: images at a time; on a CPU at most.
        threads: for reading, on a CPU for the network too; 0: none; default: by the machine.
    """

    def __init__(
        self,
        model: LoadedModel,
        columns: Sequence[Column],
        compute: Compute,
        batch_size: int = 256,
        threads: int | None = None,
    ) -> None:
        model.model.to(compute.device).eval()
        self.name, self.compute, self.threads = model.spec, compute, threads
        self.view = EvalTransform(model.image_size)
        self.columns = Columns(model.model, columns)
        self.as_input = model.view(compute.device)
        self.batch_size = batch_size
        patches = model.grid[0] * model.grid[1]
        self.each = fits_one_core(compute.device.type == "cpu", patches, threads)
        if compute.device.type == "cpu":
            self.batch_size = chunk_size(batch_size, patches)

    def __call__(self, records: Iterable[Record]) -> Iterator[Described]:
        """Of every image in order, in constant memory.

        Raises RunError where the network's output is not finite.
        """
        if not self.each:
            views = ahead(self._read, records, 2 * self.batch_size, self.threads)
            for batch in chunks(views, self.batch_size):
                yield from self._describe(batch)
            return
        workers = thread_count(self.threads)
        with one_thread():
            batches = chunks(records, self.batch_size)
            for described in ahead(self._read_and_describe, batches, workers + 1, workers):
                yield from described

    def _read(self, record: Record) -> Tensor | str:
        """uint8 (3, h, w), or why there is none."""
        try:
            pixels = load(record.path, self.view.load_size, self.view.interpolation)
        except ImageError as error:
            return str(error)
        return self.view(torch.from_numpy(pixels).permute(2, 0, 1))

    def _read_and_describe(self, records: Sequence[Record]) -> list[Described]:
        return self._describe([self._read(record) for record in records])

    @torch.no_grad()
    def _describe(self, batch: Sequence[Tensor | str]) -> list[Described]:
        good = [view for view in batch if isinstance(view, Tensor)]
        found: Iterator[Tensor] = iter(())
        if good:
            pixels = torch.stack(good)
            if self.compute.device.type == "cuda":
                # Pinned, the copy runs beside what the device computes.
                pixels = pixels.pin_memory()
            pixels = pixels.to(self.compute.device, non_blocking=True)
            with self.compute.autocast():
                columns = self.columns(self.as_input(pixels))
            values = torch.stack([column.float() for column in columns], 1).cpu()
            if not values.isfinite().all():
                raise RunError(
                    f"features: {self.name} gives values that are not finite (NaN or infinite); "
                    "are its weights whole? In half precision --precision fp32 may help"
                )
            found = iter(values.unbind())
        return [view if isinstance(view, str) else next(found) for view in batch]
