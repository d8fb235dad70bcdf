"""Extraction of a model's feature columns from a stream of images.

Images are preprocessed as in DINO's evaluations: the shorter side resized to 256/224 of the input,
bicubic, the center cut out, the model's own mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.base import Record
from gtacli.errors import RunError
from gtacli.images.decode import load
from gtacli.inference.stream import Failure, stream
from gtacli.models.feature_columns import FeatureColumn, PooledFeatures
from gtacli.models.loading import LoadedModel
from gtacli.models.packed_linear import packed_copy
from gtacli.runtime.batching import chunk_size, fits_one_core
from gtacli.runtime.devices import Compute


class FeatureExtractor:
    """A model on its device, with the columns to extract.

    Args:
        batch_size: images at a time; fewer on a CPU, by the number of patches.
        threads: for reading, on a CPU for the model too; 0: none; default: one per core.
    """

    def __init__(
        self,
        model: LoadedModel,
        columns: Sequence[FeatureColumn],
        compute: Compute,
        batch_size: int = 256,
        threads: int | None = None,
    ) -> None:
        model.model.to(compute.device).eval()
        self.name, self.compute, self.threads = model.spec, compute, threads
        self.view = EvalTransform(model.image_size)
        self.columns = PooledFeatures(packed_copy(model.model, compute.dtype), columns)
        self.as_input = model.view(compute.device)
        self.batch_size = batch_size
        patches = model.grid[0] * model.grid[1]
        self.per_core = fits_one_core(compute.device.type == "cpu", patches, threads)
        if compute.device.type == "cpu":
            self.batch_size = chunk_size(batch_size, patches)

    def __call__(self, records: Iterable[Record]) -> Iterator[Tensor | Failure]:
        """Yield the columns of each image, fp32 (columns, C) on the CPU, in order.

        Raises RunError if the model's output is not finite.
        """
        return stream(
            records,
            self.read,
            self.run,
            self.batch_size,
            per_core=self.per_core,
            threads=self.threads,
            name=lambda record: record.key,
        )

    def read(self, record: Record) -> Tensor:
        """Return the model's input of an image: uint8 (3, h, w). Raises ImageError."""
        pixels = load(record.source, self.view.load_size, self.view.interpolation)
        return self.view(torch.from_numpy(pixels).permute(2, 0, 1))

    @torch.no_grad()
    def run(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the columns of each input, fp32 (columns, C) on the CPU.

        Raises RunError if the model's output is not finite.
        """
        pixels = self.compute.stack(views, self.batch_size)
        if self.compute.device.type == "cuda":
            # Pinned, so that the copy overlaps with computation.
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.compute.device, non_blocking=True)
        with self.compute.autocast():
            columns = self.columns(self.as_input(pixels))
        values = torch.stack([column[: len(views)].float() for column in columns], 1).cpu()
        if not values.isfinite().all():
            raise RunError(
                f"the features of {self.name} are not finite (NaN or infinite); its weights may be "
                "damaged, or in half precision `precision=fp32` may help"
            )
        return values.unbind()
