"""Compare reading frozen networks in bf16 with fp32, on a CPU that multiplies bf16.

    python benchmarks/precision.py --images PHOTOS [--model SPEC ...] [--count 64]

For each model and each thing that is read (attention maps, TokenCut's objects, features), on
decoded photographs and from the file: images a second of `precision=auto` as multiples of those of
fp32, in CPU time of this process, medians of interleaved repeats. And how far the results differ:
the fraction of cells that are on the same side of maps that keep 60 % of the attention, the mean
IoU of the objects' masks, the largest difference of features of length 1.

Prints one JSON line per model. One thread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleaved import time_interleaved
from torch import Tensor

from gtacli.config.attention_map import AttentionMapConfig
from gtacli.data.base import Record
from gtacli.discovery.build import make_backend
from gtacli.images.decode import decode
from gtacli.inference.attention_maps.make import make_extractors
from gtacli.inference.features import FeatureExtractor
from gtacli.inference.objects import Finder
from gtacli.models import load_model
from gtacli.models.feature_columns import select_columns
from gtacli.runtime.devices import Compute, choose_compute

BATCH = 8
Read = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--model", nargs="+", default=["vit_small_patch16_224@none"])
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(p for p in args.images.rglob("*.jpg"))[: args.count]
    full, half = choose_compute("cpu", "fp32"), choose_compute("cpu", "auto").frozen
    for spec in args.model:
        torch.manual_seed(0)
        line: dict[str, Any] = {"model": spec, "images": len(files), "auto": half.precision}
        for name, (make, compare) in THINGS.items():
            for decoded in (True, False):
                reads = {c.precision: make(spec, files, c, decoded) for c in (full, half)}
                timings = time_interleaved(reads, args.repeats, full)
                key = name if decoded else f"{name}_from_files"
                line[key] = timings.ratio("fp32", half.precision)
                if decoded:
                    line[f"{name}_agreement"] = compare(*timings.results.values())
        print(json.dumps(line), flush=True)


def attention_maps(spec: str, files: list[Path], compute: Compute, decoded: bool) -> Read:
    torch.manual_seed(0)
    config = AttentionMapConfig(model=spec)
    (extractor,) = make_extractors(config, [spec], compute)

    def view(file: Path) -> Tensor:
        pixels = decode(file)
        return extractor.view(torch.from_numpy(_array(pixels)))

    def run(views: list[Tensor]) -> list[Tensor]:
        return [maps[0].maps for maps in extractor.extract(views, compute)]

    return _reader(files, view, run, decoded)


def objects(spec: str, files: list[Path], compute: Compute, decoded: bool) -> Read:
    torch.manual_seed(0)
    model = load_model(spec)
    finder = Finder(model, make_backend("tokencut", {"layer": -1, "tau": 0.2}, model), compute)

    def run(views: list[Tensor]) -> list[Tensor]:
        masks = finder.run(views, BATCH).masks
        assert masks is not None
        return [*masks]

    return _reader(files, lambda file: finder.view(decode(file)), run, decoded)


def features(spec: str, files: list[Path], compute: Compute, decoded: bool) -> Read:
    torch.manual_seed(0)
    model = load_model(spec)
    columns = select_columns(model.model, "cls")
    extractor = FeatureExtractor(model, columns, compute, BATCH)

    def view(file: Path) -> Tensor:
        return extractor.read(Record(file.name, 0, file))

    return _reader(files, view, lambda views: [*extractor.run(views)], decoded)


def _array(picture: Any) -> Any:
    import numpy as np

    return np.asarray(picture).transpose(2, 0, 1).copy()


def _reader(
    files: list[Path],
    view: Callable[[Path], Tensor],
    run: Callable[[list[Tensor]], list[Tensor]],
    decoded: bool,
) -> Read:
    """Return a function that reads all images, decoded before or in it."""
    views = [view(file) for file in files] if decoded else []

    def read() -> list[Tensor]:
        inputs = views or [view(file) for file in files]
        found: list[Tensor] = []
        for start in range(0, len(inputs), BATCH):
            found += run(inputs[start : start + BATCH])
        return found

    return read


def same_cells(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the fraction of cells that both maps keep, or both leave out, of 60 % attention."""
    pairs = zip(one, other, strict=True)
    return sum(float((_kept(a) == _kept(b)).float().mean()) for a, b in pairs) / len(one)


def _kept(values: Tensor) -> Tensor:
    flat = values.float().flatten()
    order = flat.argsort(descending=True)
    kept = torch.zeros_like(flat, dtype=torch.bool)
    before = flat[order].cumsum(0) - flat[order]
    kept[order] = before < 0.6 * flat.sum()
    return kept


def mean_iou(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the mean intersection over union of masks."""
    pairs = zip(one, other, strict=True)
    return sum(float((a & b).sum() / (a | b).sum().clamp(min=1)) for a, b in pairs) / len(one)


def largest(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the largest distance between features of length 1."""
    a, b = (torch.nn.functional.normalize(torch.stack(x), dim=-1) for x in (one, other))
    return float((a - b).norm(dim=-1).max())


THINGS = {
    "attention_maps": (attention_maps, same_cells),
    "objects": (objects, mean_iou),
    "features": (features, largest),
}

if __name__ == "__main__":
    main()
