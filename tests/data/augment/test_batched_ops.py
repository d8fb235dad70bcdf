"""Tests of timm's operations on batches against Pillow."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import auto_augment as timm_policies

from gtacli.data.augment.augmentation import FUNCTIONS
from gtacli.data.augment.batched_ops import apply_op

FILL = (124, 116, 104)
FACTORS = st.floats(0, 2)
WIDTH, HEIGHT = 50, 40


def shifts(most: float, side: int) -> st.SearchStrategy[float]:
    """Generate shifts of at most `most * side` pixels.

    No shift moves a column's centers to the border, where fp32 may round them to either side.
    """
    return st.floats(-most, most).filter(lambda v: abs(v * side % 1 - 0.5) > 1e-3)


ARGS = {
    "invert": None,
    "equalize": None,
    "auto_contrast": None,
    "posterize": st.integers(1, 8),
    "solarize": st.integers(0, 256),
    "solarize_add": st.integers(0, 128),
    "brightness": FACTORS,
    "contrast": FACTORS,
    "color": FACTORS,
    "sharpness": FACTORS,
    "desaturate": st.floats(0.5, 1),
    "rotate": st.floats(-40, 40),
    "shear_x": st.floats(-0.5, 0.5),
    "shear_y": st.floats(-0.5, 0.5),
    "translate_x_rel": shifts(0.6, WIDTH),
    "translate_y_rel": shifts(0.6, HEIGHT),
    "translate_x_abs": shifts(20, 1),
    "translate_y_abs": shifts(20, 1),
    "gaussian_blur": st.floats(0.1, 2),
}
EXACT = {"invert", "equalize", "posterize", "solarize", "solarize_add"}


def pictures(count: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 7, 3), dtype=np.uint8)
    return [Image.fromarray(c).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for c in coarse]


def test_all_operations_are_tested() -> None:
    assert set(ARGS) == set(FUNCTIONS) - {"gaussian_blur_rand"}  # recorded as a blur


@pytest.mark.parametrize("name", list(ARGS))
@given(st.data())
def test_operation_equals_pillows(name: str, data: st.DataObject) -> None:
    images = pictures(3, data.draw(st.integers(0, 999)))
    values = ARGS[name]
    args = [(data.draw(values),) if values is not None else () for _ in images]
    more = {"fillcolor": FILL, "resample": Image.Resampling.BILINEAR}
    function = getattr(timm_policies, name)
    want = torch.stack(
        [
            torch.from_numpy(np.array(function(image, *arg, **more)))
            for image, arg in zip(images, args, strict=True)
        ]
    ).permute(0, 3, 1, 2)
    batch = torch.stack([torch.from_numpy(np.array(image)) for image in images])
    got = apply_op(name, batch.permute(0, 3, 1, 2).float(), args, FILL)
    assert torch.equal(got, got.round().clamp(0, 255))
    apart = (got - want).abs()
    if name == "gaussian_blur":  # Pillow's is three box filters
        assert apart.max() <= 5
        assert apart.mean() < 1.5
    elif name in EXACT:
        assert apart.max() == 0
    else:
        # Places on the border may be rounded to either side in fp32.
        assert (apart > 1).float().mean() < 0.003


def test_each_image_has_its_own_argument() -> None:
    images = torch.full((2, 3, 9, 9), 100.0)
    got = apply_op("brightness", images, [(0.5,), (2.0,)], FILL)
    assert got.flatten(1).unique(dim=1).tolist() == [[50], [200]]


def test_no_random_numbers_are_drawn() -> None:
    state = random.getstate(), torch.get_rng_state()
    for name, values in ARGS.items():
        apply_op(name, torch.zeros(1, 3, 16, 16), [(1,) if values is not None else ()], FILL)
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])
