"""The resize in a graph, against that of Pillow and of torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gtacli.images.preprocessing import compute_eval_box, make_eval_view
from gtacli.models.exporters.pixels import ResizeAndCrop

SIZES = [(75, 100), (102, 67), (32, 32), (20, 9), (64, 64), (41, 333)]


def picture(size: tuple[int, int]) -> torch.Tensor:
    """Return uint8 (3, h, w): smooth, with noise."""
    rng = np.random.default_rng(size)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC)).astype(float)
    pixels = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_is_the_evaluation_view(
    size: tuple[int, int], crop_pct: float, interpolation: str
) -> None:
    image = picture(size)
    ours = ResizeAndCrop((32, 48), crop_pct, interpolation)(image[None])[0]
    theirs = make_eval_view(image, (32, 48), crop_pct, interpolation).float()
    difference = (ours - theirs).abs()
    assert difference.max() <= 2  # levels; torchvision has weights of 15 bits
    assert difference.mean() < 0.25  # it rounds halves otherwise


def test_it_is_the_resize_of_pillow() -> None:
    image = picture((90, 60))
    ours = ResizeAndCrop((48, 32), 1.0, "bicubic")(image[None])[0]
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((32, 48), Image.BICUBIC)
    difference = np.abs(ours.permute(1, 2, 0).numpy() - np.asarray(resized, float))
    assert difference.max() <= 1
    assert difference.mean() < 0.02


def test_nearest_takes_pixels_of_the_image() -> None:
    image = picture((80, 64))
    ours = ResizeAndCrop((40, 32), 1.0, "nearest")(image[None])[0]
    assert torch.equal(ours.byte(), image[:, ::2, ::2])


def test_an_image_of_its_size_stays() -> None:
    image = picture((32, 32))
    assert torch.equal(ResizeAndCrop((32, 32), 1.0, "bicubic")(image[None])[0].byte(), image)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_boxes_are_those_of_the_image(size: tuple[int, int]) -> None:
    view, image = ResizeAndCrop((32, 48), 0.875, "bicubic"), picture(size)[None]
    whole = view.to_image(torch.tensor([[0.0, 0.0, 48.0, 32.0]]), image)[0].tolist()
    top, left, bottom, right = compute_eval_box(size, (32, 48), 0.875)
    assert whole == pytest.approx([left, top, right, bottom], abs=1e-3)
