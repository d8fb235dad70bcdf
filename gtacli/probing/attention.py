"""`gta probe attention`: the attention's health over a stream of images, of one model or several.

Threads read images and masks ahead of the models; of an image no more than the models' input and
its mask on their patch grids waits in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from gtacli.data.inputs import InputImage
from gtacli.data.truth import GroundTruth, read_record_truth, read_truth
from gtacli.discovery import Discovery
from gtacli.errors import UsageError
from gtacli.images.decode import ImageError
from gtacli.images.sizes import Size
from gtacli.inference.objects import ImageView, ViewReader
from gtacli.inference.stream import Failure
from gtacli.measures.attention import HealthSums
from gtacli.measures.object_shares import object_shares, regrid
from gtacli.models import timm_blocks
from gtacli.models.loading import LoadedModel
from gtacli.models.matching import paired_layers
from gtacli.models.tap import Tap, absolute_layers, attention, require_cls
from gtacli.runtime.batching import chunks
from gtacli.runtime.devices import Compute
from gtacli.runtime.prefetch import ahead

log = logging.getLogger(__name__)
Masks = Path | Discovery[Any] | Literal["data"]
"""Where the objects are known from: a folder of masks, a back-end of the first model that draws
them, or the images' own data set."""


class _Item(NamedTuple):
    view: ImageView
    shares: dict[Size, Tensor]  # of the object, on each patch grid; empty: to be found


class AttentionProbe:
    """Measures the CLS token's attention of models on the same images; see `probing.health`.

    The distances are from the first model. Where they cannot be measured (blocks that have no
    counterpart) a warning says so, and the rest is done.

    Args:
        models: of any input size; images are read as the first one sees them.
        layers: block numbers, "all" or "last", in each model.
        masks: of the objects.

    Raises UsageError for a model without a CLS token or such blocks.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel],
        layers: Sequence[int] | str,
        masks: Masks,
        compute: Compute,
    ) -> None:
        self.models, self.masks, self.compute = models, masks, compute
        for model in models:
            timm_blocks.check(model.model)
            require_cls(model.model, "model", "its attention cannot be measured")
            model.model.eval().to(compute.device)
        depths = [len(model.model.blocks) for model in models]  # type: ignore[arg-type]
        self.layers = [absolute_layers(layers, depth) for depth in depths]
        self.compared = [False, *(self._comparable(model, layers) for model in models[1:])]
        heads = [_heads(model) for model in models]
        self.sums = [
            HealthSums(
                len(of),
                count,
                (count if count == heads[0] else 1) if compared else 0,
                compute.device,
            )
            for of, count, compared in zip(self.layers, heads, self.compared, strict=True)
        ]
        self._reader = ViewReader(models[0])
        self._views = [model.view(compute.device) for model in models]
        self._grids = tuple(dict.fromkeys(model.grid for model in models))

    def see(
        self, images: Iterable[InputImage], batch_size: int = 32, threads: int | None = None
    ) -> Iterator[Failure | int]:
        """Measures each image, in constant memory.

        Args:
            threads: for reading; 0: none; default: by the machine.

        Yields: an image that cannot be done, or how many have just been measured.
        """
        items = ahead(self._read, images, 2 * batch_size, threads)
        for batch in chunks(items, batch_size):
            good = [item for item in batch if isinstance(item, _Item)]
            yield from (item for item in batch if isinstance(item, Failure))
            if good:
                self._measure(good)
                yield len(good)

    def results(self) -> list[dict[str, Any]]:
        """Of each model: `n_images`, `n_inside`, `area` (see `HealthSums.means`), `grid`, `tokens`
        (columns of a row) and `layers`: a dict a block with `layer`, and `inside`,
        `inside_over_area`, `entropy`, `drift`, `kl` as lists over the heads; drift and kl have one
        number where the models' heads are of different numbers."""
        return [
            _result(model, layers, sums.means())
            for model, layers, sums in zip(self.models, self.layers, self.sums, strict=True)
        ]

    def _comparable(self, model: LoadedModel, layers: Sequence[int] | str) -> bool:
        try:
            paired_layers(layers, model.model, self.models[0].model)
        except UsageError:
            blocks = [len(m.model.blocks) for m in (model, self.models[0])]  # type: ignore[arg-type]
            log.warning(
                "%s has %d blocks and the first model %d: no distances; --layer last, or -1,-2, "
                "compares from the end",
                model.spec,
                *blocks,
            )
            return False
        return True

    def _read(self, image: InputImage) -> _Item | Failure:
        try:
            view = self._reader.read(image)
            return _Item(view, self._shares(image, view.size))
        except ImageError as error:
            return Failure(image.path, str(error))

    def _shares(self, image: InputImage, size: Size) -> dict[Size, Tensor]:
        if isinstance(self.masks, Discovery):
            return {}
        truth: GroundTruth | None
        if isinstance(self.masks, Path):
            truth = read_truth(self.masks, image.below, size)
            if truth.labels is None:
                raise ImageError(f"ground truth of {image.path} has boxes alone; masks are needed")
        else:
            truth = None if image.record is None else read_record_truth(image.record, size)
        if truth is None or truth.labels is None:
            return {grid: torch.zeros(grid) for grid in self._grids}
        return {grid: object_shares(truth.labels, grid) for grid in self._grids}

    @torch.no_grad()
    def _measure(self, batch: Sequence[_Item]) -> None:
        pixels = torch.stack([item.view.pixels for item in batch]).to(self.compute.device)
        shares = self._shares_of(batch, pixels)
        reference: list[Tap] | None = None
        for i, model in enumerate(self.models):
            with self.compute.autocast():
                taps = attention(model.model, self._views[i](pixels), self.layers[i])
            self.sums[i].add(taps, shares[model.grid], reference if self.compared[i] else None)
            reference = reference or taps

    def _shares_of(self, batch: Sequence[_Item], pixels: Tensor) -> dict[Size, Tensor]:
        """(B, gh, gw) on each grid."""
        if isinstance(self.masks, Discovery):
            with self.compute.autocast():
                found = self.masks.find(self._views[0](pixels)).masks
            assert found is not None
            return {grid: regrid(found, grid) for grid in self._grids}
        return {
            grid: torch.stack([item.shares[grid] for item in batch]).to(self.compute.device)
            for grid in self._grids
        }


def _heads(model: LoadedModel) -> int:
    blocks: Any = model.model.blocks
    return int(blocks[0].attn.num_heads)


def _result(model: LoadedModel, layers: Sequence[int], means: dict[str, Any]) -> dict[str, Any]:
    area, inside = means["area"], means["inside"]
    over = None if inside is None else [[share / area for share in row] for row in inside]
    figures = {
        "inside": inside,
        "inside_over_area": over,
        **{name: means[name] for name in ("entropy", "drift", "kl")},
    }
    return {
        "n_images": means["n_images"],
        "n_inside": means["n_inside"],
        "area": area,
        "grid": list(model.grid),
        "tokens": model.num_prefix_tokens + model.grid[0] * model.grid[1],
        "layers": [
            {"layer": layer, **{k: None if v is None else v[i] for k, v in figures.items()}}
            for i, layer in enumerate(layers)
        ],
    }
