"""Layout of contact sheets and the length of their texts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gtacli.rendering.sheet import SIDE, SheetRow, draw_sheet

RED, BLUE = (200, 0, 0), (0, 0, 200)


def bounds(drawn: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return the bounding box [x0, y0, x1, y1) of the pixels of a color."""
    ys, xs = np.nonzero((np.asarray(drawn) == color).all(-1))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@pytest.mark.parametrize("size", [(400, 300), (30, 400), (3, 2), (1, 1), (20000, 20)])
def test_pictures_fit_their_cells_and_keep_their_aspect_ratio(size: tuple[int, int]) -> None:
    pictures = [Image.new("RGB", size, RED), None, Image.new("L", (50, 60), 7)]
    drawn = draw_sheet([SheetRow(pictures, ("a", "b"))], ["one", "two", "three"])
    x0, y0, x1, y1 = bounds(drawn, RED)
    scale = SIDE / max(size)
    assert (x1 - x0, y1 - y0) == tuple(max(1, round(scale * s)) for s in size)
    gray = bounds(drawn, (7, 7, 7))
    assert (gray[0] + gray[2] - x0 - x1) / 2 == pytest.approx(2 * (SIDE + 8), abs=1)
    assert drawn.width > 3 * SIDE


def test_columns_and_rows_are_aligned() -> None:
    rows = [
        SheetRow([Image.new("RGB", (80, 20), RED), Image.new("RGB", (80, 20), BLUE)]),
        SheetRow([Image.new("RGB", (80, 60), (0, 99, 0)), None], ("under it",)),
    ]
    drawn = draw_sheet(rows, ["", ""])
    red, blue, green = (bounds(drawn, c) for c in (RED, BLUE, (0, 99, 0)))
    assert red[1::2] == blue[1::2]
    assert red[0] == green[0]
    assert green[1] >= red[3]
    below = np.asarray(drawn)[green[3] :]
    assert (below < 200).any()  # the caption


def test_long_texts_are_cut_to_their_columns() -> None:
    long = "a/very/long/name/of/a/model/that/no/column/holds.safetensors"
    picture = Image.new("RGB", (60, 60), RED)
    drawn = draw_sheet([SheetRow([picture, picture], (long, long))], [long, f"short\n{long}"])
    ink = (np.asarray(drawn) < 140).all(-1)
    x0, y0, x1, y1 = bounds(drawn, RED)
    for part in (ink[:y0], ink[y1:]):
        columns = part.any(0)
        assert not columns[x0 + SIDE : x1 - SIDE].any()
        assert columns[x0 : x0 + SIDE].any()
        assert columns[x1 - SIDE : x1].any()
        assert not columns[x1:].any()
        assert not columns[:x0].any()


def test_empty_sheet() -> None:
    assert draw_sheet([], []).width > 0
