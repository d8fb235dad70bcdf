"""Confusion matrices as pictures: true classes down, predicted classes across."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gtacli.rendering.sheet import FAINT, GAP, INK, LINE, TEXT, truncate_start

_HIT, _MISS = (34, 94, 168), (204, 76, 2)
_COUNTED, _NAMED = 25, 100
"""Largest numbers of classes with counts in the cells, and with names."""
_LONGEST = 180
"""Pixels of a class's name."""
_TITLE = 320
"""Pixels of room for a title at least."""
_WIDE = 1200
"""Pixels of the matrix of very many classes, about."""


def draw_confusion(
    classes: Sequence[str], counts: NDArray[np.int64], title: str = ""
) -> Image.Image:
    """Draw a matrix; a cell's color grows with its fraction of the true class's images.

    Args:
        classes: names.
        counts: (classes, classes), rows are true classes. A count that needs more room than its
            cell is left out, as are names and counts of very many classes.
        title: above the matrix; its beginning is cut off where it is too long.
    """
    cell = _cell(len(classes))
    side = cell * len(classes)
    font = ImageFont.load_default(min(TEXT, max(cell - 1, 8)))
    named = len(classes) <= _NAMED
    names = [truncate_start(name, _LONGEST, font) for name in classes] if named else []
    margin = round(max((font.getlength(name) for name in names), default=0)) + GAP
    plain = ImageFont.load_default(TEXT)
    total = int(counts.sum())
    share = f", {100 * np.trace(counts) / total:.1f} %" if total else ""
    caption = f"{np.trace(counts):,} of {total:,} correct{share}"
    head = LINE + GAP if title else 0
    left = GAP + LINE + margin
    top = head + left
    right = max(left + side, left + round(plain.getlength(caption)), _TITLE if title else 0)
    picture = Image.new("RGB", (right + GAP, top + side + LINE + 2 * GAP), "white")
    picture.paste(_colors(counts).resize((side, side), Image.Resampling.NEAREST), (left, top))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((left - 1, top - 1, left + side, top + side), outline=FAINT)
    _write_names(picture, names, font, (left, top), cell)
    pen.text((GAP, GAP), truncate_start(title, right - GAP, plain), INK, plain)
    pen.text((left + side / 2, head + GAP), "predicted class", FAINT, plain, anchor="mt")
    _write_upward(picture, "true class", plain, FAINT, (GAP + LINE // 2, top + side // 2), "mm")
    if len(classes) <= _COUNTED:
        _write_counts(pen, counts, font, (left, top), cell)
    pen.text((left, top + side + GAP), caption, INK, plain)
    return picture


def _cell(classes: int) -> int:
    if classes <= _COUNTED:
        return 34
    return 14 if classes <= _NAMED else max(1, _WIDE // classes)


def _colors(counts: NDArray[np.int64]) -> Image.Image:
    """Return a pixel per cell; the root of the fraction shows rare mistakes, too."""
    of_class = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    strength = np.sqrt(counts / of_class)[..., None]
    hits = np.eye(len(counts), dtype=bool)[..., None]
    colors = 255 + strength * (np.where(hits, _HIT, _MISS) - 255)
    return Image.fromarray(colors.round().astype(np.uint8))


def _write_names(
    picture: Image.Image,
    names: Sequence[str],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    corner: tuple[int, int],
    cell: int,
) -> None:
    left, top = corner
    pen = ImageDraw.Draw(picture)
    for number, name in enumerate(names):
        middle = number * cell + cell // 2
        pen.text((left - GAP // 2, top + middle), name, INK, font, anchor="rm")
        _write_upward(picture, name, font, INK, (left + middle, top - GAP // 2), "mb")


def _write_upward(
    picture: Image.Image,
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    ink: tuple[int, int, int],
    place: tuple[int, int],
    anchor: str,
) -> None:
    """Write from below to above: centered (`mm`), or with its beginning at a place (`mb`)."""
    size = round(font.getlength(text)) + 2, LINE
    strip = Image.new("L", size, 0)
    ImageDraw.Draw(strip).text((1, LINE // 2), text, 255, font, anchor="lm")
    strip = strip.transpose(Image.Transpose.ROTATE_90)
    y = place[1] - (strip.height // 2 if anchor == "mm" else strip.height)
    picture.paste(ink, (place[0] - LINE // 2, y), strip)


def _write_counts(
    pen: ImageDraw.ImageDraw,
    counts: NDArray[np.int64],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    corner: tuple[int, int],
    cell: int,
) -> None:
    of_class = np.maximum(counts.sum(axis=1), 1)
    for row, column in np.argwhere(counts).tolist():
        text = str(counts[row, column])
        if font.getlength(text) > cell:
            continue
        ink = (255, 255, 255) if counts[row, column] / of_class[row] > 0.3 else INK
        place = corner[0] + (column + 0.5) * cell, corner[1] + (row + 0.5) * cell
        pen.text(place, text, ink, font, anchor="mm")
