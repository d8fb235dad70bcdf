"""Tests of images for training against those for evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtacli.images.decode import ImageError, load
from gtacli.images.loading import load_for_training


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A photograph with edges, noise and smooth parts."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC)).copy()
    pixels[100:200, 150:400] = (250, 3, 128)
    pixels[300:] = rng.integers(0, 256, (180, 640, 3))
    path = tmp_path / "photograph.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("cover", [(224, 224), (479, 100), (480, 640), (700, 700), (32, 60)])
def test_pixels_are_those_of_evaluation(
    photograph: Path, interpolation: str, cover: tuple[int, int]
) -> None:
    found = load_for_training(photograph, cover, interpolation).permute(1, 2, 0).numpy()
    exact = load(photograph, cover, interpolation)
    assert found.shape == exact.shape
    different = np.abs(found.astype(int) - exact)
    assert different.max() <= 2
    assert (different > 0).mean() < 0.01


def test_layout_is_that_of_the_file(photograph: Path) -> None:
    for cover in ((224, 224), (700, 700)):
        assert load_for_training(photograph, cover).permute(1, 2, 0).is_contiguous()


def test_what_is_no_image_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="not an image"):
        load_for_training(tmp_path / "x.jpg", (8, 8))
