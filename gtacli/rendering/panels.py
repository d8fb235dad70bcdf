"""Heat-map tables: panels of colored cells in rows and columns, with the values in the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from gtacli.rendering.colormap import palette
from gtacli.rendering.sheet import truncate_start

CELL_HEIGHT, TEXT, GAP, BAR = 18, 11, 24, 9
GRAY = (90, 90, 90)
Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class PanelColumn:
    """A column of panels that share one color scale, so that their rows can be compared.

    Attributes:
        title: text above the column.
        note: second line of the title, in gray.
        tables: the numbers of each panel by line and cell; None leaves the panel's place empty.
        format: format string of the numbers in the cells.
        low: value at the low end of the color scale; None: the smallest number.
    """

    title: str
    note: str
    tables: Sequence[Sequence[Sequence[float]] | None]
    format: str = "{:.2f}"
    low: float | None = None


def draw_panels(
    names: Sequence[str],
    columns: Sequence[PanelColumn],
    lines: Sequence[Sequence[str]],
    corner: str = "",
) -> Image.Image:
    """Draw one row of panels per name.

    Args:
        names: titles of the rows.
        columns: the columns of panels.
        lines: names of the table lines in each row of panels.
        corner: text at the top left that says what the lines and cells of a panel are.
    """
    font, large = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT + 3)
    layouts = [_ColumnLayout(column, font) for column in columns]
    margin = 10 + round(max(font.getlength(name) for row in lines for name in row))
    heights = [
        max((layout.height(row) for layout in layouts), default=0) + 3 * CELL_HEIGHT
        for row in range(len(names))
    ]
    head = 4 * CELL_HEIGHT + BAR
    width = GAP + sum(layout.width + margin + GAP for layout in layouts)
    picture = Image.new("RGB", (width, head + sum(heights)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, 2), corner, fill=GRAY, font=font)
    left = GAP
    for layout in layouts:
        layout.draw_head(draw, left + margin, CELL_HEIGHT, large)
        top = head
        for row, height in enumerate(heights):
            layout.draw_panel(draw, left + margin, top + 2 * CELL_HEIGHT, row, lines[row])
            top += height
        left += layout.width + margin + GAP
    top = head
    for name, height in zip(names, heights, strict=True):
        draw.text(
            (GAP, top), truncate_start(name, width - 2 * GAP, large), fill="black", font=large
        )
        top += height
    return picture


class _ColumnLayout:
    def __init__(self, column: PanelColumn, font: Font) -> None:
        self.column, self.font = column, font
        numbers = [x for table in column.tables for line in table or () for x in line]
        self.low = min(numbers, default=0.0) if column.low is None else column.low
        self.high = max(numbers, default=1.0)
        widest = max((font.getlength(column.format.format(x)) for x in numbers), default=0)
        self.cell = max(30, round(widest) + 8)
        heads = max((len(line) for table in column.tables for line in table or ()), default=1)
        titles = [ImageFont.load_default(TEXT + 3).getlength(column.title)]
        titles.append(font.getlength(column.note))
        self.width = max(heads * self.cell, round(max(titles)))

    def height(self, row: int) -> int:
        return CELL_HEIGHT * len(self.column.tables[row] or ())

    def draw_head(self, draw: ImageDraw.ImageDraw, x: int, y: int, large: Font) -> None:
        """Draw title, note, and the color bar with the values at its ends."""
        draw.text((x, y), self.column.title, fill="black", font=large)
        draw.text((x, y + CELL_HEIGHT), self.column.note, fill=GRAY, font=self.font)
        bar = y + 2 * CELL_HEIGHT + 2
        ends = [self.column.format.format(value) for value in (self.low, self.high)]
        first = round(self.font.getlength(ends[0])) + 6
        length = max(40, min(120, self.width - 2 * first))
        for i in range(length):
            color = _color(i / (length - 1))
            draw.line((x + first + i, bar, x + first + i, bar + BAR), fill=color)
        draw.text((x, bar - 2), ends[0], fill=GRAY, font=self.font)
        draw.text((x + first + length + 6, bar - 2), ends[1], fill=GRAY, font=self.font)

    def draw_panel(
        self, draw: ImageDraw.ImageDraw, x: int, y: int, row: int, lines: Sequence[str]
    ) -> None:
        table = self.column.tables[row]
        if table is None:
            return
        for i in range(max(len(line) for line in table)):
            middle = (x + i * self.cell + self.cell / 2, y - 4)
            draw.text(middle, str(i), fill=GRAY, font=self.font, anchor="mb")
        for number, (name, line) in enumerate(zip(lines, table, strict=True)):
            top = y + number * CELL_HEIGHT
            draw.text((x - 5, top + CELL_HEIGHT / 2), name, fill=GRAY, font=self.font, anchor="rm")
            for i, value in enumerate(line):
                self._draw_cell(draw, x + i * self.cell, top, value)

    def _draw_cell(self, draw: ImageDraw.ImageDraw, x: int, y: int, value: float) -> None:
        spread = self.high - self.low
        color = _color((value - self.low) / spread if spread > 0 else 0.0)
        draw.rectangle((x, y, x + self.cell - 2, y + CELL_HEIGHT - 2), fill=color)
        bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
        text = self.column.format.format(value)
        middle = (x + self.cell / 2 - 1, y + CELL_HEIGHT / 2 - 1)
        draw.text(middle, text, fill="black" if bright else "white", font=self.font, anchor="mm")


def _color(unit: float) -> tuple[int, int, int]:
    at = 3 * round(255 * min(1.0, max(0.0, unit)))
    red, green, blue = palette("viridis")[at : at + 3]
    return red, green, blue
