"""Reconstructions that pre-training runs saved (`pretraining.previews`), shrunk for the page.

The newest picture of every run is always there, earlier ones if they fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from gtacli.images.decode import ImageError, decode
from gtacli.report.run_folders import ReportRun

# Width in pixels and maximum number of pictures per run, the largest first.
_SIZES = ((640, 12), (480, 12), (480, 6), (400, 4), (400, 2), (400, 1), (240, 1))
_QUALITY = 80
BASE64 = 4 / 3
"""Length of Base64 text divided by the number of bytes."""


@dataclass(frozen=True)
class RunPreviews:
    """The previews of one run.

    Attributes:
        run: index of the run.
        epochs: number of completed epochs at each picture, increasing.
        pictures: JPEG files.
    """

    run: int
    epochs: tuple[int, ...]
    pictures: tuple[bytes, ...]


def read_previews(runs: Sequence[ReportRun], size: float) -> tuple[list[RunPreviews], list[str]]:
    """Read the runs' previews and shrink them to `size` bytes of the page, if that is possible.

    The newest picture of a run is used to estimate the size of its others.

    Returns: the previews, and a line for each run whose previews cannot be read.
    """
    files = {number: found for number, run in enumerate(runs) if (found := [*_files(run.path)])}
    missing: list[str] = []
    newest: dict[int, Image.Image] = {}
    for number in [*files]:
        try:
            newest[number] = decode(files[number][-1][1])
        except ImageError as error:
            del files[number]
            missing.append(f"{runs[number].name}: its newest preview cannot be read: {error}")
    if not files:
        return [], missing
    width, most = next((s for s in _SIZES if _total_bytes(newest, files, *s) <= size), _SIZES[-1])
    return [_shrink(run, _thin_out(own, most), width) for run, own in files.items()], missing


def _files(run: Path) -> Iterator[tuple[int, Path]]:
    """Yield (epochs, file), the oldest first."""
    for file in sorted((run / "previews").glob("epoch-*.png")):
        if match := re.fullmatch(r"epoch-(\d+)", file.stem):
            yield int(match[1]), file


def _total_bytes(
    newest: dict[int, Image.Image], files: dict[int, list[tuple[int, Path]]], width: int, most: int
) -> float:
    jpegs = ((min(most, len(files[n])), _jpeg(picture, width)) for n, picture in newest.items())
    return BASE64 * sum(count * len(jpeg) for count, jpeg in jpegs)


def _thin_out(files: Sequence[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    """Select at most `most` files, evenly spaced and including the last."""
    count = min(most, len(files))
    return [files[len(files) - 1 - i * len(files) // count] for i in range(count)][::-1]


def _shrink(run: int, files: Sequence[tuple[int, Path]], width: int) -> RunPreviews:
    shrunk = []
    for epochs, file in files:
        try:
            shrunk.append((epochs, _jpeg(decode(file), width)))
        except ImageError:  # an earlier picture; the newest one was readable
            continue
    return RunPreviews(run, tuple(e for e, _ in shrunk), tuple(jpeg for _, jpeg in shrunk))


def _jpeg(picture: Image.Image, width: int) -> bytes:
    picture = picture.copy()
    picture.thumbnail((width, 100 * width), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
