"""What pre-training made of masked images (`pretraining.previews`), as small as the page needs it:
the newest picture of every run, and earlier ones as far as they fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from gtacli.report.runs import Run

# Width in pixels, pictures a run at most: the richest first.
_PLANS = ((640, 12), (480, 12), (480, 6), (400, 4), (400, 2), (400, 1), (240, 1))
_QUALITY = 80
_BASE64 = 4 / 3


@dataclass(frozen=True)
class Previews:
    """A run's.

    Attributes:
        run: its number.
        epochs: after how many epochs each was drawn, rising.
        pictures: JPEG.
    """

    run: int
    epochs: tuple[int, ...]
    pictures: tuple[bytes, ...]


def read_previews(runs: Sequence[Run], size: float) -> tuple[list[Previews], list[str]]:
    """Those of the runs that have some, in `size` bytes of a page or the least that there is.

    The newest of each run stands for its others where their size is asked.

    Returns: also what is missing, a line each.
    """
    files = {number: found for number, run in enumerate(runs) if (found := [*_files(run.path)])}
    missing: list[str] = []
    newest: dict[int, Image.Image] = {}
    for number in [*files]:
        try:
            newest[number] = _opened(files[number][-1][1])
        except OSError as error:
            del files[number]
            missing.append(f"{runs[number].name}: its newest preview cannot be read ({error})")
    if not files:
        return [], missing
    width, most = next((p for p in _PLANS if _bytes(newest, files, *p) <= size), _PLANS[-1])
    return [_shrunk(number, _thinned(of, most), width) for number, of in files.items()], missing


def _files(run: Path) -> Iterator[tuple[int, Path]]:
    """(epochs, file), the oldest first."""
    for file in sorted((run / "previews").glob("epoch-*.png")):
        if found := re.fullmatch(r"epoch-(\d+)", file.stem):
            yield int(found[1]), file


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")


def _bytes(
    newest: dict[int, Image.Image], files: dict[int, list[tuple[int, Path]]], width: int, most: int
) -> float:
    jpegs = ((min(most, len(files[n])), _jpeg(picture, width)) for n, picture in newest.items())
    return _BASE64 * sum(count * len(jpeg) for count, jpeg in jpegs)


def _thinned(files: Sequence[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    """At most so many, evenly from all, with the last."""
    count = min(most, len(files))
    return [files[len(files) - 1 - i * len(files) // count] for i in range(count)][::-1]


def _shrunk(run: int, files: Sequence[tuple[int, Path]], width: int) -> Previews:
    found = []
    for epochs, file in files:
        try:
            found.append((epochs, _jpeg(_opened(file), width)))
        except OSError:  # an earlier one: the newest could be read
            continue
    return Previews(run, tuple(e for e, _ in found), tuple(jpeg for _, jpeg in found))


def _jpeg(picture: Image.Image, width: int) -> bytes:
    picture = picture.copy()
    picture.thumbnail((width, 100 * width), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
