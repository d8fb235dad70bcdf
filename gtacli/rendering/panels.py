"""Tables of numbers as colours: panels in rows and columns, the values written in their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from gtacli.rendering.color import palette
from gtacli.rendering.sheet import shortened

CELL_HEIGHT, TEXT, GAP, BAR = 18, 11, 24, 9
GREY = (90, 90, 90)
Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Measure:
    """A column of panels under one scale of colours, so that its rows compare.

    Attributes:
        title: above it; `note` below that, in grey.
        tables: of each row of panels its numbers, by line and column; None: an empty place.
        format: of a number in its cell.
        low: where the colours begin; None: at the least number.
    """

    title: str
    note: str
    tables: Sequence[Sequence[Sequence[float]] | None]
    format: str = "{:.2f}"
    low: float | None = None


def draw_panels(
    names: Sequence[str],
    measures: Sequence[Measure],
    lines: Sequence[Sequence[str]],
    corner: str = "",
) -> Image.Image:
    """One row of panels a name, one column a measure.

    Args:
        names: of the rows, written above each.
        lines: of each row the names of its tables' lines.
        corner: what lines and columns are, at the top left.
    """
    font, large = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT + 3)
    columns = [_Column(measure, font) for measure in measures]
    margin = 10 + round(max(font.getlength(name) for row in lines for name in row))
    heights = [
        max((c.height(row) for c in columns), default=0) + 3 * CELL_HEIGHT
        for row in range(len(names))
    ]
    head = 4 * CELL_HEIGHT + BAR
    width = GAP + sum(column.width + margin + GAP for column in columns)
    picture = Image.new("RGB", (width, head + sum(heights)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, 2), corner, fill=GREY, font=font)
    left = GAP
    for column in columns:
        column.head(draw, left + margin, CELL_HEIGHT, large)
        top = head
        for row, height in enumerate(heights):
            column.panel(draw, left + margin, top + 2 * CELL_HEIGHT, row, lines[row])
            top += height
        left += column.width + margin + GAP
    top = head
    for name, height in zip(names, heights, strict=True):
        draw.text((GAP, top), shortened(name, width - 2 * GAP, large), fill="black", font=large)
        top += height
    return picture


class _Column:
    def __init__(self, measure: Measure, font: Font) -> None:
        self.measure, self.font = measure, font
        numbers = [x for table in measure.tables for line in table or () for x in line]
        self.low = min(numbers, default=0.0) if measure.low is None else measure.low
        self.high = max(numbers, default=1.0)
        widest = max((font.getlength(measure.format.format(x)) for x in numbers), default=0)
        self.cell = max(30, round(widest) + 8)
        heads = max((len(line) for table in measure.tables for line in table or ()), default=1)
        titles = [ImageFont.load_default(TEXT + 3).getlength(measure.title)]
        titles.append(font.getlength(measure.note))
        self.width = max(heads * self.cell, round(max(titles)))

    def height(self, row: int) -> int:
        return CELL_HEIGHT * len(self.measure.tables[row] or ())

    def head(self, draw: ImageDraw.ImageDraw, x: int, y: int, large: Font) -> None:
        """Title, note, and the bar of colours with its two ends."""
        draw.text((x, y), self.measure.title, fill="black", font=large)
        draw.text((x, y + CELL_HEIGHT), self.measure.note, fill=GREY, font=self.font)
        bar = y + 2 * CELL_HEIGHT + 2
        ends = [self.measure.format.format(value) for value in (self.low, self.high)]
        first = round(self.font.getlength(ends[0])) + 6
        length = max(40, min(120, self.width - 2 * first))
        for i in range(length):
            colour = _colour(i / (length - 1))
            draw.line((x + first + i, bar, x + first + i, bar + BAR), fill=colour)
        draw.text((x, bar - 2), ends[0], fill=GREY, font=self.font)
        draw.text((x + first + length + 6, bar - 2), ends[1], fill=GREY, font=self.font)

    def panel(
        self, draw: ImageDraw.ImageDraw, x: int, y: int, row: int, lines: Sequence[str]
    ) -> None:
        table = self.measure.tables[row]
        if table is None:
            return
        for i in range(max(len(line) for line in table)):
            middle = (x + i * self.cell + self.cell / 2, y - 4)
            draw.text(middle, str(i), fill=GREY, font=self.font, anchor="mb")
        for number, (name, line) in enumerate(zip(lines, table, strict=True)):
            top = y + number * CELL_HEIGHT
            draw.text((x - 5, top + CELL_HEIGHT / 2), name, fill=GREY, font=self.font, anchor="rm")
            for i, value in enumerate(line):
                self._cell(draw, x + i * self.cell, top, value)

    def _cell(self, draw: ImageDraw.ImageDraw, x: int, y: int, value: float) -> None:
        spread = self.high - self.low
        colour = _colour((value - self.low) / spread if spread > 0 else 0.0)
        draw.rectangle((x, y, x + self.cell - 2, y + CELL_HEIGHT - 2), fill=colour)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        text = self.measure.format.format(value)
        middle = (x + self.cell / 2 - 1, y + CELL_HEIGHT / 2 - 1)
        draw.text(middle, text, fill="black" if bright else "white", font=self.font, anchor="mm")


def _colour(share: float) -> tuple[int, int, int]:
    at = 3 * round(255 * min(1.0, max(0.0, share)))
    red, green, blue = palette("viridis")[at : at + 3]
    return red, green, blue
