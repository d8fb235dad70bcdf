"""Measure time and memory of the formats of `gta segment` on drawn masks; prints one JSON line.

    python benchmarks/annotations.py [--images 1000 10000 100000] [--formats coco label-studio]

Each measurement is a process of its own: masks of blobs with holes at 320 x 240 pixels, one an
image, go through the masks' writer, the journal and the format; no network runs. `peak_mb` is the
process's largest resident memory, `start_mb` that before the first image.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy import ndimage

SIZE = (240, 320)
GRID = (120, 160)
DRAWN = 256  # masks, used in turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--formats", nargs="+", default=["coco", "label-studio", "voc", "yolo"])
    parser.add_argument("--folder", type=Path, help="for the files [default: a temporary one]")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.formats[0], args.images[0], args.folder)))
        return
    results = []
    for kind in args.formats:
        for count in args.images:
            with TemporaryDirectory(dir=args.folder) as scratch:
                words = ["--one", "--formats", kind, "--images", str(count), "--folder", scratch]
                done = subprocess.run(
                    [sys.executable, __file__, *words], stdout=subprocess.PIPE, check=True
                )
            results.append(json.loads(done.stdout))
            print(results[-1], file=sys.stderr)
    print(json.dumps({"size": SIZE, "results": results}))


def measure(kind: str, count: int, folder: Path) -> dict[str, Any]:
    """Write the annotations of `count` images."""
    from gtacli.data.inputs import InputImage
    from gtacli.inference.journal import ResultJournal
    from gtacli.inference.objects import ImageObjects, ObjectGrids
    from gtacli.inference.segment.formats.coco import Coco
    from gtacli.inference.segment.formats.label_studio import LabelStudio
    from gtacli.inference.segment.formats.voc import Voc
    from gtacli.inference.segment.formats.yolo import Yolo
    from gtacli.inference.segment.masks import MaskOptions, MaskWriter
    from gtacli.runtime.machine import peak_memory, reset_peak_memory

    kinds = {"coco": Coco, "label-studio": LabelStudio, "voc": Voc, "yolo": Yolo}
    annotations = kinds[kind](folder)
    writer = MaskWriter(MaskOptions(folder, annotations=annotations), SIZE)
    grids = [ObjectGrids(mask.astype(np.float32), mask, None, None) for mask in draw_masks()]

    def images() -> Iterator[InputImage]:
        for number in range(count):
            path = PurePath(f"{number // 1000:03}/{number:06}.jpg")
            yield InputImage(str(path), path)

    reset_peak_memory()  # that of the imports
    before, start = peak_memory(), time.perf_counter()
    journal: ResultJournal[InputImage] = ResultJournal(folder)
    with journal:
        assert not [*journal.replay(images(), lambda image: (image.path, []), 32)]
        for number, image in enumerate(journal.rest):
            one = grids[number % DRAWN]
            result, _ = writer.finish(ImageObjects(image, SIZE, (one,)), one, None, None)
            record = {} if result.record is None else {"record": result.record}
            journal.add(image.path, lines=[result.line], scores=[None], **record)
        streamed = time.perf_counter()
        annotations.finish(journal.records)
    return {
        "format": kind,
        "images": count,
        "start_mb": round(before / 2**20, 1),
        "peak_mb": round(peak_memory() / 2**20, 1),
        "seconds": round(time.perf_counter() - start, 2),
        "joining_seconds": round(time.perf_counter() - streamed, 2),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def draw_masks() -> Iterator[Any]:
    """Yield masks (gh, gw) of a disk with a rough border and holes."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : GRID[0] * 1j, -1 : 1 : GRID[1] * 1j]
    for _ in range(DRAWN):
        rough = ndimage.gaussian_filter(random.standard_normal(GRID), 3) * 2
        yield (x / 0.6) ** 2 + (y / 0.7) ** 2 + rough < 1


if __name__ == "__main__":
    main()
