"""Tests of the views of very narrow images."""

from __future__ import annotations

import pytest
import torch

from gtacli.images import sizes
from gtacli.images.preprocessing import make_eval_view


@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1)])
def test_narrow_image_is_not_enlarged_to_gigabytes(shape: tuple[int, int]) -> None:
    image = torch.full((3, *shape), 7, dtype=torch.uint8)
    view = make_eval_view(image, (224, 224), 0.875, "bicubic")
    assert view.shape == (3, 224, 224)
    assert (view == 7).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("shape", [(5, 901), (900, 4), (3, 64)])
def test_cut_ends_do_not_change_the_view(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], interpolation: str
) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    whole = make_eval_view(image, (32, 48), 0.9, interpolation)
    monkeypatch.setattr(sizes, "MOST_ENLARGED", 1)
    cut = make_eval_view(image, (32, 48), 0.9, interpolation)
    assert (whole.int() - cut.int()).abs().max() <= 3
