"""Object masks drawn on their image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from gtacli.rendering.masks import highlight_objects

LINE = (255, 196, 0)


def test_object_is_unchanged_and_background_dark() -> None:
    image = Image.new("RGB", (60, 40), (200, 40, 40))
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    drawn = np.asarray(highlight_objects(image, [mask], [[20, 10, 50, 30]]))
    assert drawn.shape == (40, 60, 3)
    assert tuple(drawn[20, 35]) == (200, 40, 40)
    assert drawn[2, 2].max() < 60
    assert len(set(drawn[2, 2])) == 1  # gray
    for y, x in ((10, 35), (29, 35), (20, 20), (20, 49)):
        assert tuple(drawn[y, x]) == LINE
    assert tuple(drawn[9, 35]) != LINE
    assert tuple(drawn[30, 35]) != LINE


def test_empty_mask_and_single_pixel() -> None:
    empty = highlight_objects(Image.new("RGB", (5, 4), "white"), [np.zeros((4, 5), bool)])
    assert np.asarray(empty).max() < 110
    pixel = Image.new("RGB", (1, 1), "white")
    one = highlight_objects(pixel, [np.ones((1, 1), bool)], [[0, 0, 1, 1]])
    assert one.getpixel((0, 0)) == LINE
