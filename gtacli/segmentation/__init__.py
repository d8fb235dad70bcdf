"""Masks of the objects in images, as a stream: threads read ahead of the model (`gtacli.finding`),
others refine, score and write behind it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gtacli.data.ahead import ahead
from gtacli.data.inputs import Named
from gtacli.discovery.metrics import Totals
from gtacli.finding import Failed, Finder, find_all
from gtacli.segmentation.finish import Finisher, Output, mask_name

__all__ = ["Output", "segment"]


def segment(
    finder: Finder,
    images: Iterable[Named],
    output: Output,
    batch_size: int = 32,
    threads: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The object of each image, in the order of `images`, in constant memory.

    Args:
        threads: for reading, and as many for what follows the model; 0: none; default: by the
            machine.

    Yields:
        `{"image", "mask", "box", "area"}`: the mask's file, [x0, y0, x1, y1) in pixels of the
        upright image (None around an empty mask), the mask's share of the image; with ground truth
        "iou" (of masks) and "located" (whether the box meets a true one). Or `{"image", "error"}`
        for an image that cannot be done. The last is `{"summary"}`.

    Raises RunError for a file that cannot be written.
    """
    start = time.perf_counter()
    finisher = Finisher(output)
    seen = find_all([finder], _claimed(images, output), batch_size, threads)
    totals, done, failed = Totals(), 0, 0
    for result, one in ahead(finisher.finish, seen, 2 * batch_size, threads):
        done, failed = done + ("error" not in result), failed + ("error" in result)
        if one is not None:
            totals.add(one)
        yield result
    summary: dict[str, Any] = {"images": done, "failed": failed}
    if output.truth is not None or totals.count:
        summary |= totals.means()
    summary["images_per_second"] = done / (time.perf_counter() - start)
    yield {"summary": summary}


def _claimed(images: Iterable[Named], output: Output) -> Iterator[Named | Failed]:
    """A mask overwrites neither another one nor its own image."""
    taken: set[int] = set()  # of numbers: a stream of a million paths still fits
    for image in images:
        name = mask_name(image.below)
        key = hash(name)
        if key in taken:
            yield Failed(image, f"{image.path}: another image has its mask in {name} already")
        elif output.folder is not None and _same(output.folder / name, Path(image.path)):
            yield Failed(image, f"{image.path}: its mask would overwrite it; choose another --out")
        else:
            taken.add(key)
            yield image


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
