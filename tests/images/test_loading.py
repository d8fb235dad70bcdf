"""Tests of images for training against those for evaluation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gtacli.images.decode import EncodedImage, ImageError, load
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


@settings(max_examples=300)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from(["bicubic", "bilinear"]),
)
def test_pixels_of_noise_at_any_size(
    height: int, width: int, rows: int, columns: int, interpolation: str
) -> None:
    """Noise overshoots in every pixel: it shows in which order rows and columns are resized."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    image = EncodedImage("noise.bmp", file.getvalue())
    found = load_for_training(image, (rows, columns), interpolation).permute(1, 2, 0).numpy()
    exact = load(image, (rows, columns), interpolation)
    assert found.shape == exact.shape
    assert np.abs(found.astype(int) - exact).max() <= 2
    assert (found != exact).sum() <= 9 + 0.05 * found.size


@pytest.mark.parametrize("size", [(900, 400), (900, 450), (801, 450)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_tall_images(size: tuple[int, int], interpolation: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tall.png")
    found = load_for_training(tmp_path / "tall.png", (224, 224), interpolation)
    exact = load(tmp_path / "tall.png", (224, 224), interpolation)
    assert (found.permute(1, 2, 0).numpy() != exact).mean() < 0.01


def test_layout_is_that_of_the_file(photograph: Path) -> None:
    for cover in ((224, 224), (700, 700)):
        assert load_for_training(photograph, cover).permute(1, 2, 0).is_contiguous()


def test_what_is_no_image_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="not an image"):
        load_for_training(tmp_path / "x.jpg", (8, 8))
