"""Masks of the objects in images, as a stream: threads read ahead of the models
(`gtacli.inference.objects`), others refine, score and write behind them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gtacli.data.inputs import InputImage, OutputNames
from gtacli.images.decode import ImageError
from gtacli.inference.objects import Failed, Finder, Seen, find_all
from gtacli.inference.segment.compare import ROWS, draw, row
from gtacli.inference.segment.finish import Finished, Finisher, Output, mask_name
from gtacli.measures.segmentation import Totals
from gtacli.rendering.sheet import SheetRow
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.prefetch import ahead

__all__ = ["Output", "segment"]


def segment(
    finders: Sequence[Finder],
    images: Iterable[InputImage],
    output: Output,
    batch_size: int = 32,
    threads: int | None = None,
    objects: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """The object of each image, in the order of `images`, in constant memory.

    With several finders, each image goes to all of them; the masks of each lie in a folder of its
    name, and the first images are drawn side by side into `sheet.png`.

    Args:
        finders: of models of one input size.
        threads: for reading, and as many for what follows the models; 0: none; default: by the
            machine.
        objects: an image at most; as many masks are claimed for it.
        stop: asked between batches; what is found by then is still written and summed up.

    Yields:
        `{"image", "mask", "box", "area"}`: the mask's file, [x0, y0, x1, y1) in pixels of the
        upright image (None around an empty mask), the mask's share of the image; of a back-end
        that finds several objects "objects", each with its own, of which the first is that one;
        with ground truth "iou" (of masks) and "located" (whether any box meets a true one). Or
        `{"image", "error"}` for an image that cannot be done. At the end `{"summary"}`.
        Of several finders each result has its "model", each has a summary, and before those
        comes `{"sheet"}`.

    Raises RunError for a file that cannot be written.
    """
    start = time.perf_counter()
    several = len(finders) > 1
    work = _Work([_finisher(finder, output, several) for finder in finders])
    seen = find_all(finders, _claimed(images, output, objects), batch_size, threads, stop)
    totals, done, failed = [Totals() for _ in finders], 0, 0
    rows: list[SheetRow] = []
    for outcome in ahead(work.do, enumerate(seen), 2 * batch_size, threads):
        done, failed = done + (not outcome.error), failed + bool(outcome.error)
        if outcome.error:
            yield {"image": outcome.image, "error": outcome.error}
        if outcome.row is not None:
            rows.append(outcome.row)
        for finder, total, finished in zip(finders, totals, outcome.finished, strict=False):
            if finished.score is not None:
                total.add(finished.score)
            yield ({"model": finder.name} if several else {}) | finished.result
    rate = done / (time.perf_counter() - start)
    summaries: list[dict[str, Any]] = []
    for finder, total in zip(finders, totals, strict=True):
        summary: dict[str, Any] = {"model": finder.name} if several else {}
        summary |= {"images": done, "failed": failed}
        if output.truth is not None or total.count:
            summary |= total.means()
        summaries.append(summary | {"images_per_second": rate})
    if rows and output.folder is not None:
        path = output.folder / "sheet.png"
        drawn = draw(rows, [f.name for f in finders], summaries)
        yield {"sheet": write_atomic(path, lambda file: drawn.save(file, format="PNG"))}
    yield from ({"summary": summary} for summary in summaries)


class _Outcome(NamedTuple):
    """Of one image: what each finder's result became, or why there is none."""

    image: str
    error: str = ""
    finished: Sequence[Finished] = ()
    row: SheetRow | None = None


class _Work:
    """What follows the models, for one image after the other, in any thread."""

    def __init__(self, finishers: Sequence[Finisher]) -> None:
        self.finishers = finishers

    def do(self, numbered: tuple[int, Seen | Failed]) -> _Outcome:
        number, seen = numbered
        image = seen.image.path
        if isinstance(seen, Failed):
            return _Outcome(image, seen.error)
        try:
            truth, pixels = self.finishers[0].read(seen)
            pairs = zip(self.finishers, seen.grids, strict=True)
            finished = [each.finish(seen, grids, truth, pixels) for each, grids in pairs]
            wanted = len(self.finishers) > 1 and number < ROWS
            drawn = row(seen, truth, finished) if wanted else None
            return _Outcome(image, "", [one for one, _ in finished], drawn)
        except ImageError as error:
            return _Outcome(image, str(error))


def _finisher(finder: Finder, output: Output, several: bool) -> Finisher:
    folder = output.folder
    if several and folder is not None:
        folder = folder / finder.name
    return Finisher(replace(output, folder=folder, input_size=finder.size))


def _claimed(
    images: Iterable[InputImage], output: Output, objects: int
) -> Iterator[InputImage | Failed]:
    """A mask overwrites neither another one nor its own image."""
    claims = OutputNames()
    for image in images:
        names = [mask_name(image.below, k) for k in range(objects)]
        if any(_is_image(output.folder, name, image) for name in names):
            yield Failed(image, f"{image.path}: its mask would overwrite it; choose another --out")
        else:
            error = claims.reserve(image, "mask", names)
            yield image if error is None else Failed(image, error)


def _is_image(folder: Path | None, name: Path | Any, image: InputImage) -> bool:
    if folder is None:
        return False
    one, other = folder / name, Path(image.path)
    return one.exists() and other.exists() and one.samefile(other)
