"""Segment the objects in a stream of images, by one model or several, without labels."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gtacli.data.inputs import InputImage
from gtacli.discovery.maps.digests import ImageFile
from gtacli.inference.journal import ResultJournal
from gtacli.inference.objects import Finder, ImageObjects, ImageView, find_objects
from gtacli.inference.outputs import place_images, result_path
from gtacli.inference.results import Segmentation, SegmentSheet, SegmentTotals
from gtacli.inference.segment.compare import ROWS, draw, row
from gtacli.inference.segment.masks import ImageResult, MaskOptions, MaskWriter, mask_suffix
from gtacli.inference.stream import Failure, Stop, map_ahead, never, stream
from gtacli.measures.segmentation import SegmentationScore, SegmentationTotals
from gtacli.rendering.sheet import SheetRow
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.batching import chunk_size, fits_one_core

_Numbered = tuple[int, InputImage] | Failure


def segment(
    finders: Sequence[Finder],
    images: Iterable[InputImage],
    options: MaskOptions,
    batch_size: int = 32,
    threads: int | None = None,
    objects: int = 1,
    stop: Stop = never,
    journal: ResultJournal[_Numbered] | None = None,
) -> Iterator[Segmentation | SegmentSheet | SegmentTotals | Failure]:
    """Find and write the objects of each image, in the order of `images`, in constant memory.

    With several finders, each image goes to all of them; the masks of each lie in a folder of its
    name, and the first images are drawn side by side into `sheet.png`.

    Args:
        finders: of models of one input size.
        batch_size: images at a time; on a CPU at most.
        threads: default: one per core; 0: none.
        objects: of an image at most; as many mask files are claimed for it.
        stop: checked between batches; what has run by then is still written and summed up.
        journal: open; the results that it has are repeated, and those of the others added. Not for
            several finders, whose sheet it does not have.

    Yields:
        For each image a line per finder, or a failure; then the sheet of several finders, and a
        line with the totals of each.

    Raises RunError for a file that cannot be written.
    """
    start = time.perf_counter()
    pipeline = _Pipeline(finders, options)
    totals, done, failed = [SegmentationTotals() for _ in finders], 0, 0
    rows: list[SheetRow] = []
    numbered = _placed(images, options, objects)
    journal = journal or ResultJournal(None)
    outcomes = _journaled(pipeline, journal, numbered, batch_size, threads, stop)
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            failed += 1
            yield outcome
            continue
        done += 1
        rows += [outcome.row] if outcome.row else []
        for total, result in zip(totals, outcome.results, strict=True):
            if result.score is not None:
                total.add(result.score)
            yield result.line
    rate = done / max(time.perf_counter() - start, 1e-9)
    summaries = [
        writer.summary(done, failed, total, rate)
        for writer, total in zip(pipeline.writers, totals, strict=True)
    ]
    if rows and options.folder is not None:
        path = options.folder / "sheet.png"
        drawn = draw(rows, [f.name for f in finders], summaries)
        yield {"sheet": write_atomic(path, lambda file: drawn.save(file, format="PNG"))}
    for summary in summaries:
        yield {"summary": summary}


class _Outcome(NamedTuple):
    """One image's results, one per finder, and its row on the sheet."""

    image: InputImage | None
    results: list[ImageResult]
    row: SheetRow | None


def _journaled(
    pipeline: _Pipeline,
    journal: ResultJournal[_Numbered],
    images: Iterator[_Numbered],
    batch_size: int,
    threads: int | None,
    stop: Stop,
) -> Iterator[_Outcome | Failure]:
    """Yield the outcomes that the journal has, then run the pipeline and write its outcomes."""
    sources = pipeline.writers[0].sources

    def source(item: _Numbered) -> tuple[str, Sequence[ImageFile]]:
        if isinstance(item, Failure):
            return item.image, [Path(item.image)]
        return item[1].path, sources(item[1])

    for entry in journal.replay(images, source, pipeline.batch(batch_size, threads)):
        yield _restore(entry)
    for outcome in pipeline.outcomes(journal.rest, batch_size, threads, stop):
        if isinstance(outcome, Failure):
            journal.add(outcome.image, error=outcome.error)
        elif outcome.image is not None:
            lines = [result.line for result in outcome.results]
            scores = [result.score and result.score.to_plain() for result in outcome.results]
            record = outcome.results[0].record
            more = {} if record is None else {"record": record}
            journal.add(outcome.image.path, lines=lines, scores=scores, **more)
        yield outcome


def _restore(entry: Mapping[str, Any]) -> _Outcome | Failure:
    if "error" in entry:
        return Failure(entry["image"], entry["error"])
    scores = [one and SegmentationScore.from_plain(one) for one in entry["scores"]]
    pairs = zip(entry["lines"], scores, strict=True)
    return _Outcome(None, [ImageResult(line, score) for line, score in pairs], None)


class _Pipeline:
    """The three steps of one image, which keeps its number on the way."""

    def __init__(self, finders: Sequence[Finder], options: MaskOptions) -> None:
        self.finders = finders
        self.several = len(finders) > 1
        self.patches = finders[0].grid[0] * finders[0].grid[1]
        self.writers = [
            MaskWriter(options, finder.size, finder.name if self.several else None)
            for finder in finders
        ]

    def batch(self, batch_size: int, threads: int | None) -> int:
        """Return the number of images that the models get at a time."""
        return chunk_size(batch_size, self.patches) if self.per_core(threads) else batch_size

    def per_core(self, threads: int | None) -> bool:
        on_cpu = self.finders[0].compute.device.type == "cpu"
        return fits_one_core(on_cpu, self.patches, threads)

    def outcomes(
        self,
        images: Iterable[_Numbered],
        batch_size: int,
        threads: int | None,
        stop: Stop,
    ) -> Iterator[_Outcome | Failure]:
        found = stream(
            images,
            self.read,
            self.run,
            self.batch(batch_size, threads),
            per_core=self.per_core(threads),
            threads=threads,
            name=lambda item: item[1].path,
            stop=stop,
        )
        # Refinement may take much longer for one image than for another: no batch waits for it.
        return map_ahead(
            found, self.finish, 2 * batch_size, threads, lambda item: item[1].image.path
        )

    def read(self, item: tuple[int, InputImage]) -> tuple[int, ImageView]:
        return item[0], self.finders[0].read(item[1])

    def run(self, batch: list[tuple[int, ImageView]]) -> list[tuple[int, ImageObjects]]:
        found = find_objects(self.finders, [view for _, view in batch])
        return [(number, one) for (number, _), one in zip(batch, found, strict=True)]

    def finish(self, item: tuple[int, ImageObjects]) -> _Outcome:
        number, found = item
        truth, pixels = self.writers[0].read(found)
        pairs = zip(self.writers, found.grids, strict=True)
        finished = [writer.finish(found, grids, truth, pixels) for writer, grids in pairs]
        wanted = self.several and number < ROWS
        drawn = row(found, truth, finished) if wanted else None
        return _Outcome(found.image, [result for result, _ in finished], drawn)


def _placed(
    images: Iterable[InputImage], options: MaskOptions, objects: int
) -> Iterator[_Numbered]:
    """Yield numbered images; one whose mask would overwrite itself, or given twice, fails."""
    folder, masks = options.folder, [mask_suffix(k) for k in range(objects)]
    suffixes: list[str] | None = masks
    if options.annotations is not None:
        suffix, masks = options.annotations.suffix, []
        suffixes = None if suffix is None else [suffix]
    for number, image in enumerate(place_images(images, folder, suffixes)):
        if isinstance(image, Failure):
            yield image
        elif any(_is_image(folder, image, suffix) for suffix in masks):
            error = f"{image.path}: its mask would overwrite it; choose another `out`"
            yield Failure(image.path, error)
        else:
            yield number, image


def _is_image(folder: Path | None, image: InputImage, suffix: str) -> bool:
    if folder is None:
        return False
    one, other = result_path(folder, image.result_stem, suffix), image.path
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
