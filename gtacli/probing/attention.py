"""`gta probe attention`: attention metrics over a stream of images, for one or several models.

Threads read images and masks ahead of the models; of each image only the models' input and its
mask on their patch grids wait in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from gtacli.data.inputs import InputImage
from gtacli.data.objects import GroundTruth
from gtacli.data.truth import read_record_truth, read_truth
from gtacli.discovery import Discovery
from gtacli.errors import UsageError
from gtacli.images.decode import ImageError
from gtacli.images.sizes import Size
from gtacli.inference.objects import ImageView, ViewReader
from gtacli.inference.stream import Failure, Stop, never, stream
from gtacli.measures.attention import AttentionStatistics
from gtacli.measures.object_fractions import object_fractions, regrid_masks
from gtacli.models import timm_blocks
from gtacli.models.loading import LoadedModel
from gtacli.models.matching import paired_layers
from gtacli.models.tap import Tap, absolute_layers, attention, require_cls
from gtacli.probing.results import AttentionProbeMetrics
from gtacli.runtime.devices import Compute

log = logging.getLogger(__name__)
MaskSource = Path | Discovery[Any] | Literal["data"]
"""A folder of masks, a discovery back-end on the first model, or the images' own dataset."""


class _MaskedView(NamedTuple):
    view: ImageView
    fractions: dict[Size, Tensor]  # of the object, on each patch grid; empty: to be discovered


class AttentionProbe:
    """Computes metrics of several models' CLS attention on the same images.

    See `gtacli.measures.attention`. Distances are from the first model. If a model's blocks have no
    counterpart in it, a warning says so, and the other metrics are computed.

    Args:
        models: of any input size; images are read at the size of the first one.
        layers: block numbers, "all" or "last", in each model.
        masks: where the object masks come from.

    Raises UsageError for a model without a CLS token or without such blocks.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel],
        layers: Sequence[int] | str,
        masks: MaskSource,
        compute: Compute,
    ) -> None:
        self.models, self.masks, self.compute = models, masks, compute
        for model in models:
            timm_blocks.check(model.model)
            require_cls(model.model, "model", "its attention cannot be measured")
            model.model.eval().to(compute.device)
        depths = [len(model.model.blocks) for model in models]  # type: ignore[arg-type]
        self.layers = [absolute_layers(layers, depth) for depth in depths]
        self.compared = [False, *(self._is_comparable(model, layers) for model in models[1:])]
        heads = [_count_heads(model) for model in models]
        self.statistics = [
            AttentionStatistics(
                len(blocks),
                count,
                (count if count == heads[0] else 1) if compared else 0,
                compute.device,
            )
            for blocks, count, compared in zip(self.layers, heads, self.compared, strict=True)
        ]
        self._reader = ViewReader(models[0])
        self._views = [model.view(compute.device) for model in models]
        self._grids = tuple(dict.fromkeys(model.grid for model in models))

    def run(
        self,
        images: Iterable[InputImage],
        batch_size: int = 32,
        threads: int | None = None,
        stop: Stop = never,
    ) -> Iterator[InputImage | Failure]:
        """Yield each image once it has been measured, in constant memory.

        Args:
            threads: for reading; 0: none; default: one per core.
            stop: see `stream`.
        """
        return stream(
            images,
            self._read,
            self._measure,
            batch_size,
            threads=threads,
            name=lambda image: image.path,
            stop=stop,
        )

    def results(self) -> list[AttentionProbeMetrics]:
        """Return the metrics of each model so far."""
        return [
            _result(model, layers, statistics.means())
            for model, layers, statistics in zip(
                self.models, self.layers, self.statistics, strict=True
            )
        ]

    def _is_comparable(self, model: LoadedModel, layers: Sequence[int] | str) -> bool:
        try:
            paired_layers(layers, model.model, self.models[0].model)
        except UsageError:
            blocks = [len(m.model.blocks) for m in (model, self.models[0])]  # type: ignore[arg-type]
            log.warning(
                "%s has %d blocks and the first model %d: no distances; `layer=last`, or -1,-2, "
                "compares from the end",
                model.spec,
                *blocks,
            )
            return False
        return True

    def _read(self, image: InputImage) -> _MaskedView:
        view = self._reader.read(image)
        return _MaskedView(view, self._read_mask(image, view.size))

    def _read_mask(self, image: InputImage, size: Size) -> dict[Size, Tensor]:
        if isinstance(self.masks, Discovery):
            return {}
        truth: GroundTruth | None
        if isinstance(self.masks, Path):
            truth = read_truth(self.masks, image.below, size, image.result_stem, image.source)
            if truth.labels is None:
                raise ImageError(f"the ground truth of {image.path} has only boxes, no mask")
        else:
            truth = None if image.record is None else read_record_truth(image.record, size)
        if truth is None or truth.labels is None:
            return {grid: torch.zeros(grid) for grid in self._grids}
        return {grid: object_fractions(truth.labels, grid) for grid in self._grids}

    @torch.no_grad()
    def _measure(self, batch: list[_MaskedView]) -> list[InputImage]:
        pixels = torch.stack([item.view.pixels for item in batch]).to(self.compute.device)
        fractions = self._object_fractions(batch, pixels)
        reference: list[Tap] | None = None
        for i, model in enumerate(self.models):
            with self.compute.autocast():
                taps = attention(model.model, self._views[i](pixels), self.layers[i])
            compared = reference if self.compared[i] else None
            self.statistics[i].add(taps, fractions[model.grid], compared)
            reference = reference or taps
        return [item.view.image for item in batch]

    def _object_fractions(self, batch: list[_MaskedView], pixels: Tensor) -> dict[Size, Tensor]:
        """Return (B, gh, gw) on each grid."""
        if isinstance(self.masks, Discovery):
            with self.compute.autocast():
                found = self.masks.find(self._views[0](pixels)).masks
            assert found is not None
            return {grid: regrid_masks(found, grid) for grid in self._grids}
        return {
            grid: torch.stack([item.fractions[grid] for item in batch]).to(self.compute.device)
            for grid in self._grids
        }


def _count_heads(model: LoadedModel) -> int:
    blocks: Any = model.model.blocks
    return int(blocks[0].attn.num_heads)


def _result(
    model: LoadedModel, layers: Sequence[int], means: dict[str, Any]
) -> AttentionProbeMetrics:
    area, inside = means["area"], means["inside"]
    over = None if inside is None else [[fraction / area for fraction in row] for row in inside]
    by_layer = {
        "inside": inside,
        "inside_over_area": over,
        **{name: means[name] for name in ("entropy", "drift", "kl")},
    }
    layer_metrics: list[Any] = [
        {"layer": layer, **{k: None if v is None else v[i] for k, v in by_layer.items()}}
        for i, layer in enumerate(layers)
    ]
    return {
        "n_images": means["n_images"],
        "n_inside": means["n_inside"],
        "area": area,
        "grid": list(model.grid),
        "tokens": model.num_prefix_tokens + model.grid[0] * model.grid[1],
        "layers": layer_metrics,
    }
