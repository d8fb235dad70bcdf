"""Tests of object masks on the patch grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gtacli.images.preprocessing import compute_eval_box, make_eval_view
from gtacli.measures.object_fractions import object_fractions, regrid_masks
from gtacli.measures.segmentation import VOID

SIDE = st.integers(1, 9)


def by_counting(mask_hw: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Split every pixel into gh x gw equal parts, so that patches have whole numbers of them."""
    (h, w), (gh, gw) = mask_hw.shape, grid
    fine = np.kron(mask_hw, np.ones((gh, gw)))
    return fine.reshape(gh, h, gw, w).mean((1, 3))


@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 2**32 - 1))
def test_fractions_are_areas(h: int, w: int, gh: int, gw: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < 0.5
    expected = by_counting(mask, (gh, gw))
    fractions = object_fractions(mask.astype(np.int32) * 7, (gh, gw))
    assert np.allclose(fractions.numpy(), expected, atol=1e-6)
    again = regrid_masks(torch.from_numpy(mask)[None], (gh, gw))
    assert np.allclose(again[0].numpy(), expected, atol=1e-5)


def test_a_patch_half_inside_counts_half() -> None:
    labels = np.zeros((4, 4), np.int32)
    labels[:, :3] = 1
    assert object_fractions(labels, (1, 2)).tolist() == [[1.0, 0.5]]


def test_void_pixels_count_neither_way() -> None:
    labels = np.array([[1, VOID, 0, VOID], [VOID, VOID, 0, VOID]], np.int32)
    assert object_fractions(labels, (1, 2)).tolist() == [[1.0, 0.0]]
    labels[:] = VOID
    assert object_fractions(labels, (1, 2)).tolist() == [[0.0, 0.0]]


def test_a_box_within_the_image() -> None:
    labels = np.zeros((6, 6), np.int32)
    labels[2:4, 3:] = 1
    box = (2.0, 1.5, 4.0, 4.5)  # two patches that meet in the middle of the image
    assert object_fractions(labels, (1, 2), box).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("size", [(40, 44), (90, 61), (33, 200), (20, 24), (32, 32)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_fractions_equal_a_preprocessed_mask(size: tuple[int, int], crop_pct: float) -> None:
    """Against the mask as an image, resized, cropped and averaged over the patches."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    mask = ((y / height - 0.4) ** 2 + (x / width - 0.55) ** 2 < 0.09).astype(np.int32)
    picture = torch.from_numpy(mask * 255).to(torch.uint8).expand(3, -1, -1)
    seen = make_eval_view(picture, (32, 48), crop_pct, "bilinear")[0].double() / 255
    expected = seen.unflatten(0, (4, 8)).unflatten(-1, (6, 8)).mean((1, 3))
    fractions = object_fractions(mask, (4, 6), compute_eval_box(size, (32, 48), crop_pct))
    # Resizing and cropping round to whole pixels, of which a patch side has eight.
    assert (fractions - expected).abs().max() < 0.07
    assert abs(fractions.mean() - expected.mean()) < 0.01
