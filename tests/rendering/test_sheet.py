"""The grid of pictures: what lies where, and that text fits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gtacli.rendering.sheet import SIDE, Row, draw_sheet

RED, BLUE = (200, 0, 0), (0, 0, 200)


def bounds(drawn: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """[x0, y0, x1, y1) of what has the colour."""
    ys, xs = np.nonzero((np.asarray(drawn) == colour).all(-1))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@pytest.mark.parametrize("size", [(400, 300), (30, 400), (3, 2), (1, 1), (20000, 20)])
def test_pictures_fit_their_cells_and_keep_their_shape(size: tuple[int, int]) -> None:
    pictures = [Image.new("RGB", size, RED), None, Image.new("L", (50, 60), 7)]
    drawn = draw_sheet([Row(pictures, ("a", "b"))], ["one", "two", "three"])
    x0, y0, x1, y1 = bounds(drawn, RED)
    scale = SIDE / max(size)
    assert (x1 - x0, y1 - y0) == tuple(max(1, round(scale * s)) for s in size)
    grey = bounds(drawn, (7, 7, 7))
    assert (grey[0] + grey[2] - x0 - x1) / 2 == pytest.approx(2 * (SIDE + 8), abs=1)
    assert drawn.width > 3 * SIDE


def test_columns_and_rows_are_aligned() -> None:
    rows = [
        Row([Image.new("RGB", (80, 20), RED), Image.new("RGB", (80, 20), BLUE)]),
        Row([Image.new("RGB", (80, 60), (0, 99, 0)), None], ("under it",)),
    ]
    drawn = draw_sheet(rows, ["", ""])
    red, blue, green = (bounds(drawn, c) for c in (RED, BLUE, (0, 99, 0)))
    assert red[1::2] == blue[1::2]
    assert red[0] == green[0]
    assert green[1] >= red[3]
    below = np.asarray(drawn)[green[3] :]
    assert (below < 200).any()  # the caption


def test_long_texts_stay_in_their_columns() -> None:
    long = "a/very/long/name/of/a/model/that/no/column/holds.safetensors"
    picture = Image.new("RGB", (60, 60), RED)
    drawn = draw_sheet([Row([picture, picture], (long, long))], [long, f"short\n{long}"])
    ink = (np.asarray(drawn) < 140).all(-1)
    x0, y0, x1, y1 = bounds(drawn, RED)
    for part in (ink[:y0], ink[y1:]):
        columns = part.any(0)
        assert not columns[x0 + SIDE : x1 - SIDE].any()
        assert columns[x0 : x0 + SIDE].any()
        assert columns[x1 - SIDE : x1].any()
        assert not columns[x1:].any()
        assert not columns[:x0].any()


def test_nothing_to_draw() -> None:
    assert draw_sheet([], []).width > 0
