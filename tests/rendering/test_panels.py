"""Numbers as colours."""

from __future__ import annotations

from collections import Counter

from PIL import Image

from gtacli.rendering.color import palette
from gtacli.rendering.panels import Measure, draw_panels


def colour(level: int) -> tuple[int, ...]:
    return tuple(palette("viridis")[3 * level : 3 * level + 3])


def areas(picture: Image.Image) -> Counter[tuple[int, ...]]:
    return Counter(picture.get_flattened_data() if hasattr(picture, "get_flattened_data")
                   else picture.getdata())  # fmt: skip


def test_one_scale_for_all_rows() -> None:
    """The same number has the same colour in both rows; the ends are those of both together."""
    tables = [[[0.0, 4.0]], [[4.0, 8.0]]]
    lines = [["0"], ["0"]]
    seen = areas(draw_panels(["a", "b"], [Measure("m", "n", tables)], lines))
    low, middle, high = (seen[colour(level)] for level in (0, 128, 255))
    assert low > 300
    assert high > 300
    assert middle > 1.8 * min(low, high)


def test_equal_numbers_and_an_empty_place() -> None:
    flat = Measure("m", "n", [[[2.0, 2.0], [2.0, 2.0]]])
    assert areas(draw_panels(["a"], [flat], [["0", "1"]]))[colour(0)] > 1200
    lines = [["0"], ["0"]]
    one = draw_panels(["a", "b"], [Measure("m", "n", [None, [[1.0]]], low=0)], lines)
    assert 300 < areas(one)[colour(255)] < 700


def test_it_grows_with_its_numbers() -> None:
    def of(heads: int, blocks: int) -> tuple[int, int]:
        table = [[float(i * j) for i in range(heads)] for j in range(blocks)]
        lines = [[str(j) for j in range(blocks)]]
        return draw_panels(["a"], [Measure("m", "n", [table])], lines).size

    (w, h), (wide, high) = of(6, 4), of(16, 24)
    assert wide >= w + 10 * 30
    assert high == h + 20 * 18
