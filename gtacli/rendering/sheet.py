"""Contact sheets: pictures in rows and columns, with titles, captions and color bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, TEXT = 224, 8, 14
LINE = TEXT + 5
INK, FAINT = (20, 20, 20), (95, 95, 95)
BAR, NUMBERS = 12, 68
"""Width of a color bar, and of the numbers beside it, in pixels."""


@dataclass(frozen=True)
class ColorBar:
    """The values that a row's colors stand for.

    Attributes:
        low, high: the values of the first and the last color.
        colors: 256 RGB colors in Pillow's palette format.
    """

    low: float
    high: float
    colors: bytes


@dataclass(frozen=True)
class SheetRow:
    """One row of a sheet.

    Attributes:
        pictures: one per column, of any size and mode; None leaves its place empty.
        captions: text below the pictures, from the first column on.
        bar: drawn at the right of the pictures, with its two values.
    """

    pictures: Sequence[Image.Image | None]
    captions: Sequence[str] = ()
    bar: ColorBar | None = None


def draw_sheet(rows: Sequence[SheetRow], columns: Sequence[str]) -> Image.Image:
    """Draw pictures side by side on white.

    Every picture is scaled to a longer side of SIDE pixels; a row is as high as its highest
    picture. A text that is too long for its column loses its beginning.

    Args:
        rows: each with one picture per column.
        columns: titles, of one or several lines; all lines but the first are gray.
    """
    font = ImageFont.load_default(TEXT)
    thumbs = [[p if p is None else make_thumbnail(p) for p in row.pictures] for row in rows]
    heights = [max((p.height for p in row if p is not None), default=0) for row in thumbs]
    titles = [title.split("\n") for title in columns]
    head = GAP + LINE * max(map(len, titles), default=0)
    captioned = sum(any(row.captions) for row in rows)
    height = head + sum(heights) + GAP * len(rows) + LINE * captioned + GAP
    right = _left(len(columns))
    beside = BAR + NUMBERS if any(row.bar for row in rows) else 0
    sheet = Image.new("RGB", (right + beside, height), "white")
    pen = ImageDraw.Draw(sheet)

    def write_centered(text: str, column: int, y: int, ink: tuple[int, int, int]) -> None:
        text = truncate_start(text, SIDE, font)
        x = _left(column) + (SIDE - font.getlength(text)) / 2
        pen.text((x, y), text, fill=ink, font=font)

    for column, lines in enumerate(titles):
        for i, line in enumerate(lines):
            write_centered(line, column, GAP + i * LINE, FAINT if i else INK)
    top = head + GAP
    for row, pictures, tall in zip(rows, thumbs, heights, strict=True):
        for column, picture in enumerate(pictures):
            if picture is not None:
                x = _left(column) + (SIDE - picture.width) // 2
                sheet.paste(picture, (x, top + (tall - picture.height) // 2))
        if row.bar is not None and tall:
            sheet.paste(_draw_bar(row.bar, tall), (right, top))
            for value, y, anchor in ((row.bar.high, top, "lt"), (row.bar.low, top + tall, "ls")):
                place = (right + BAR + GAP // 2, y)
                pen.text(place, f"{value:.3g}", fill=FAINT, font=font, anchor=anchor)
        top += tall
        for column, caption in enumerate(row.captions):
            write_centered(caption, column, top + 2, FAINT)
        top += GAP + (LINE if any(row.captions) else 0)
    return sheet


def _left(column: int) -> int:
    return GAP + column * (SIDE + GAP)


def _draw_bar(bar: ColorBar, height: int) -> Image.Image:
    """Draw the colors from the bottom to the top."""
    strip = Image.frombytes("P", (1, 256), bytes(range(255, -1, -1)))
    strip.putpalette(bar.colors)
    return strip.convert("RGB").resize((BAR, height), Image.Resampling.BILINEAR)


def make_thumbnail(picture: Image.Image) -> Image.Image:
    """Scale a picture up or down to a longer side of SIDE pixels, as RGB."""
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def truncate_start(
    text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> str:
    """Cut a text at its beginning to fit `width` pixels; the end of a path says more."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
