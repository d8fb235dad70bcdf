"""A sheet: pictures in rows and columns, with titles."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, TEXT = 192, 8, 13


def draw_sheet(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    titles: Sequence[str],
) -> Image.Image:
    """Pictures side by side on white.

    Args:
        rows: of pictures, all rows of one length; each picture is reduced to fit a square of 192
            pixels, and those of a row should have one shape.
        columns: title above each column.
        titles: title below each row's first picture.
    """
    font = ImageFont.load_default(TEXT)
    line = TEXT + 5
    thumbs = [[thumbnail(picture) for picture in row] for row in rows]
    heights = [max((t.height for t in row), default=0) + line + GAP for row in thumbs]
    width = GAP + len(columns) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, GAP + line + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for x, column in enumerate(columns):
        draw.text(
            (GAP + x * (SIDE + GAP), GAP), shortened(column, SIDE, font), fill="black", font=font
        )
    top = GAP + line
    for row, title, height in zip(thumbs, titles, heights, strict=True):
        for x, thumb in enumerate(row):
            sheet.paste(thumb, (GAP + x * (SIDE + GAP), top))
        below = top + height - line - GAP + 1
        draw.text(
            (GAP, below), shortened(title, width - 2 * GAP, font), fill=(90, 90, 90), font=font
        )
        top += height
    return sheet


def thumbnail(picture: Image.Image) -> Image.Image:
    """The picture as RGB, in a square of 192 pixels at most; a small one is enlarged."""
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def shortened(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text's end, as far as it fits: of paths and file names that says more."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
