"""`gta probe attention --faithfulness`: insertion and deletion of kinds of maps, on a stream.

See `gtacli.measures.faithfulness` for the measures. Two controls are added: a random order of each
image's patches, and a Gaussian around the center.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gtacli.data.inputs import InputImage
from gtacli.inference.attention_maps.base import MapMethod
from gtacli.inference.objects import ImageView, ViewReader
from gtacli.inference.stream import Failure, Stop, never, stream
from gtacli.measures.faithfulness import (
    Fill,
    area_under,
    center_map,
    keep_first,
    make_baseline,
    rank_patches,
    step_counts,
)
from gtacli.measures.statistics import bootstrap_interval, paired_mean_difference
from gtacli.models.class_scores import check_classifier
from gtacli.models.loading import LoadedModel
from gtacli.models.packed_linear import packed_copy
from gtacli.probing.results import Comparison, FaithfulnessMetrics
from gtacli.runtime.batching import chunk_size, fits_one_core
from gtacli.runtime.devices import Compute

CONTROLS = ("random", "center")
METRICS = ("insertion", "deletion", "gap")


class _ImageCurves(NamedTuple):
    image: InputImage
    curves: NDArray[np.float64]  # (kinds, insertion and deletion, S + 1)


class FaithfulnessProbe:
    """Measures insertion and deletion of several kinds of maps of one model.

    The class is the one that the model predicts for the whole image.

    Args:
        model: with a classifier; moved to the device.
        kinds: the maps' methods by name.
        fill: what replaces removed patches.
        steps: number of steps from no patch to all.

    Raises UsageError (option "model") for a model without a classifier.
    """

    def __init__(
        self,
        model: LoadedModel,
        kinds: Mapping[str, MapMethod],
        fill: Fill,
        steps: int,
        compute: Compute,
    ) -> None:
        network = model.model.eval().requires_grad_(False).to(compute.device)
        check_classifier(network, "predicted", "faithfulness", "model", hint="it has no answer")
        self.model = model
        self.methods, self.fill, self.compute = dict(kinds), fill, compute
        self.names = [*kinds, *CONTROLS]
        self.grid = model.grid
        self.counts = step_counts(model.grid[0] * model.grid[1], steps)
        self.areas: list[NDArray[np.float64]] = []
        self.sums: NDArray[np.float64] | float = 0.0
        self._reader, self._as_input = ViewReader(model), model.view(compute.device)
        # The maps need gradients, which packed layers have not; most of the time is spent here.
        fp32 = compute.device.type == "cpu" and compute.dtype == torch.float32
        self._scorer = packed_copy(network, compute.dtype) if fp32 else network

    def run(
        self,
        images: Iterable[InputImage],
        batch_size: int = 32,
        threads: int | None = None,
        stop: Stop = never,
    ) -> Iterator[InputImage | Failure]:
        """Yield each image once it has been measured; see `AttentionProbe.run`."""
        patches, on_cpu = self.grid[0] * self.grid[1], self.compute.device.type == "cpu"
        results: Iterator[_ImageCurves | Failure] = stream(
            images,
            self._reader.read,
            self._measure,
            chunk_size(batch_size, patches) if on_cpu else batch_size,
            per_core=fits_one_core(on_cpu, patches, threads),
            threads=threads,
            name=lambda image: image.path,
            stop=stop,
        )
        for result in results:
            if isinstance(result, Failure):
                yield result
                continue
            self.areas.append(area_under(result.curves, self.fractions))
            self.sums = self.sums + result.curves
            yield result.image

    @property
    def fractions(self) -> list[float]:
        """The fraction of the patches at each step."""
        return [count / self.counts[-1] for count in self.counts]

    def results(self) -> list[FaithfulnessMetrics]:
        """Return the metrics of each kind so far, controls last; none before the first image."""
        if not self.areas:
            return []
        areas = np.stack(self.areas)  # (n, kinds, 2)
        metrics = np.concatenate((areas, areas[..., :1] - areas[..., 1:]), -1)
        curves = np.asarray(self.sums) / len(areas)
        against = self._compare(metrics)
        return [
            {
                "kind": kind,
                "n_images": len(areas),
                **_with_intervals(metrics[:, k]),  # type: ignore[typeddict-item]
                "fractions": self.fractions,
                "insertion_curve": curves[k, 0].tolist(),
                "deletion_curve": curves[k, 1].tolist(),
                "against": against[kind],
            }
            for k, kind in enumerate(self.names)
        ]

    def _compare(self, metrics: NDArray[np.float64]) -> dict[str, dict[str, dict[str, Comparison]]]:
        """Return the paired test of each kind against each other one, by metric."""
        against: dict[str, dict[str, dict[str, Comparison]]] = {kind: {} for kind in self.names}
        for a, b in combinations(range(len(self.names)), 2):
            tests = {
                metric: paired_mean_difference(metrics[:, a, i], metrics[:, b, i])
                for i, metric in enumerate(METRICS)
            }
            first, second = self.names[a], self.names[b]
            against[first][second] = {m: _comparison(*t) for m, t in tests.items()}
            against[second][first] = {
                m: _comparison(-t.difference, -t.high, -t.low, t.p, t.test)
                for m, t in tests.items()
            }
        return against

    @torch.no_grad()
    def _measure(self, batch: list[ImageView]) -> list[_ImageCurves]:
        pixels = torch.stack([view.pixels for view in batch]).to(self.compute.device)
        images = self._as_input(pixels)
        baseline = make_baseline(images, self.grid, self.fill)
        with self.compute.autocast():
            logits = self._scorer(images)
            maps = {name: method(images)[0].maps for name, method in self.methods.items()}
        maps["random"] = torch.stack([_random_map(view.pixels, self.grid) for view in batch])
        maps["center"] = center_map(self.grid).expand(len(batch), -1, -1)
        classes = logits.argmax(1, keepdim=True)
        ends = [self._probability(end, classes) for end in (baseline, images)]
        curves = []
        for name in self.names:
            rank = rank_patches(maps[name].to(images.device))
            inserted = self._between(images, baseline, rank, classes)
            deleted = self._between(baseline, images, rank, classes)
            both = (ends[0], *inserted, ends[1]), (ends[1], *deleted, ends[0])
            curves.append(torch.stack([torch.stack(curve) for curve in both]))
        stacked = torch.stack(curves).double().cpu().numpy()
        return [_ImageCurves(view.image, stacked[..., i]) for i, view in enumerate(batch)]

    def _between(self, kept: Tensor, rest: Tensor, rank: Tensor, classes: Tensor) -> list[Tensor]:
        """Return the probabilities (B,) with more and more patches of `kept` in `rest`."""
        return [
            self._probability(keep_first(kept, rest, rank, self.grid, count), classes)
            for count in self.counts[1:-1]
        ]

    def _probability(self, images: Tensor, classes: Tensor) -> Tensor:
        with self.compute.autocast():
            logits = self._scorer(images)
        return self.model.probabilities(logits.float()).gather(1, classes)[:, 0]


def _random_map(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return random values, the same for the same pixels in any batch and any thread."""
    generator = torch.Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes()))
    return torch.rand(grid, generator=generator)


def _with_intervals(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return mean and interval of the metrics, of values (n, 3)."""
    result: dict[str, Any] = {}
    for i, metric in enumerate(METRICS):
        result[metric] = float(values[:, i].mean())
        result[f"{metric}_interval"] = list(bootstrap_interval(values[:, i]))
    return result


def _comparison(difference: float, low: float, high: float, p: float, test: str) -> Comparison:
    return {"difference": difference, "low": low, "high": high, "p": p, "test": test}  # type: ignore[typeddict-item]
