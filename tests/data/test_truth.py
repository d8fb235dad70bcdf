"""Ground-truth masks as they come."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from gtacli.data.images import ImageError
from gtacli.data.truth import read_truth

OBJECT = np.zeros((6, 9), bool)
OBJECT[2:5, 3:8] = True


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "zero-one", "I;16", "bmp", "smooth"])
def test_black_and_white_of_every_kind(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(OBJECT.astype(np.uint8) * (1 if kind == "zero-one" else 255))
    if kind in ("1", "RGB"):
        image = image.convert(kind)
    elif kind == "I;16":
        image = Image.fromarray(OBJECT.astype(np.uint16) * 65535)
    elif kind == "smooth":
        image.putpixel((3, 2), 140)
        image.putpixel((2, 2), 90)
    image.save(tmp_path / f"a.{'bmp' if kind == 'bmp' else 'png'}")
    assert (read_truth(tmp_path, PurePath("a.jpg"), (6, 9)) == OBJECT).all()


def test_found_in_the_image_s_folder_or_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    Image.fromarray(OBJECT).save(tmp_path / "x" / "a.b.png")
    Image.fromarray(~OBJECT).save(tmp_path / "a.b.png")
    assert (read_truth(tmp_path, PurePath("x/a.b.jpg"), (6, 9)) == OBJECT).all()
    assert (read_truth(tmp_path, PurePath("y/a.b.jpg"), (6, 9)) == ~OBJECT).all()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no ground truth for a\.jpg in "):
        read_truth(tmp_path, PurePath("a.jpg"), (6, 9))
    Image.fromarray(OBJECT).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a.png is 9 x 6 pixels, its image is 6 x 9"):
        read_truth(tmp_path, PurePath("a.jpg"), (9, 6))
    Image.fromarray(OBJECT.astype(np.uint8) * 75).save(tmp_path / "a.png")  # ids of objects
    with pytest.raises(ImageError, match="is not black and white"):
        read_truth(tmp_path, PurePath("a.jpg"), (6, 9))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="cannot read image"):
        read_truth(tmp_path, PurePath("a.jpg"), (6, 9))
