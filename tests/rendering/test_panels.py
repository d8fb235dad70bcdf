"""Panels of colored cells."""

from __future__ import annotations

from collections import Counter

from PIL import Image

from gtacli.rendering.colormap import palette
from gtacli.rendering.panels import PanelColumn, draw_panels


def color(level: int) -> tuple[int, ...]:
    return tuple(palette("viridis")[3 * level : 3 * level + 3])


def areas(picture: Image.Image) -> Counter[tuple[int, ...]]:
    return Counter(picture.get_flattened_data() if hasattr(picture, "get_flattened_data")
                   else picture.getdata())  # fmt: skip


def test_rows_share_one_color_scale() -> None:
    """The same number has the same color in both rows; the scale spans the numbers of both."""
    tables = [[[0.0, 4.0]], [[4.0, 8.0]]]
    lines = [["0"], ["0"]]
    seen = areas(draw_panels(["a", "b"], [PanelColumn("m", "n", tables)], lines))
    low, middle, high = (seen[color(level)] for level in (0, 128, 255))
    assert low > 300
    assert high > 300
    assert middle > 1.8 * min(low, high)


def test_constant_table_and_missing_table() -> None:
    flat = PanelColumn("m", "n", [[[2.0, 2.0], [2.0, 2.0]]])
    assert areas(draw_panels(["a"], [flat], [["0", "1"]]))[color(0)] > 1200
    lines = [["0"], ["0"]]
    one = draw_panels(["a", "b"], [PanelColumn("m", "n", [None, [[1.0]]], low=0)], lines)
    assert 300 < areas(one)[color(255)] < 700


def test_picture_grows_with_its_tables() -> None:
    def size_of(heads: int, blocks: int) -> tuple[int, int]:
        table = [[float(i * j) for i in range(heads)] for j in range(blocks)]
        lines = [[str(j) for j in range(blocks)]]
        return draw_panels(["a"], [PanelColumn("m", "n", [table])], lines).size

    (w, h), (wide, high) = size_of(6, 4), size_of(16, 24)
    assert wide >= w + 10 * 30
    assert high == h + 20 * 18
