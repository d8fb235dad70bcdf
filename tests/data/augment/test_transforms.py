"""Tests of random and center crops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from gtacli.data.augment.transforms import Crop, EvalTransform, TrainTransform

sides = st.integers(1, 300)


def image(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@given(sides, sides, st.integers(0, 2**32))
def test_crop_lies_inside(height: int, width: int, seed: int) -> None:
    crop = TrainTransform((224, 224)).draw(height, width, np.random.default_rng(seed))
    assert crop.height >= 1
    assert crop.width >= 1
    assert 0 <= crop.top <= height - crop.height
    assert 0 <= crop.left <= width - crop.width


@given(st.integers(0, 2**32))
def test_crop_follows_scale_and_aspect(seed: int) -> None:
    transform = TrainTransform((224, 224), scale=(0.2, 0.5))
    crop = transform.draw(256, 256, np.random.default_rng(seed))
    assert 0.19 <= crop.height * crop.width / 256**2 <= 0.51
    assert 0.73 <= crop.width / crop.height <= 1.37


def test_distribution_of_scale_and_flip() -> None:
    transform = TrainTransform((224, 224))
    crops = [transform.draw(256, 300, np.random.default_rng(seed)) for seed in range(2000)]
    fractions = np.array([crop.height * crop.width for crop in crops]) / (256 * 300)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = RandomResizedCrop(224)
        one = image(256, 300)
        params = [theirs.make_params([one]) for _ in range(2000)]
    expected = np.array([drawn["height"] * drawn["width"] for drawn in params]) / (256 * 300)
    for q in (0.1, 0.5, 0.9):  # both draw large crops of a wrong shape again
        assert abs(np.quantile(fractions, q) - np.quantile(expected, q)) < 0.03
    assert abs(np.mean([crop.flip for crop in crops]) - 0.5) < 0.05
    plain = TrainTransform((224, 224), flip=False)
    assert not any(plain.draw(9, 9, np.random.default_rng(seed)).flip for seed in range(20))


def test_very_long_image_is_cropped_at_its_center() -> None:
    crop = TrainTransform((8, 8), scale=(0.9, 1)).draw(10, 1000, np.random.default_rng(0))
    assert crop[:4] == (0, 493, 10, 13)


def test_train_transform_equals_torchvisions_crop() -> None:
    transform = TrainTransform((48, 80), interpolation="bilinear")
    picture = image(100, 120)
    actual = transform.apply(picture, Crop(10, 20, 50, 60, flip=True))
    expected = F.resized_crop(picture, 10, 20, 50, 60, [48, 80], InterpolationMode.BILINEAR)
    assert actual.dtype == torch.uint8
    assert torch.equal(actual, expected.flip(-1))


@settings(max_examples=30)
@given(sides, sides)
def test_views_have_the_input_size(height: int, width: int) -> None:
    picture = image(height, width)
    train, evaluation = TrainTransform((32, 48)), EvalTransform((32, 48), 0.9)
    assert train(picture, np.random.default_rng(0)).shape == (3, 32, 48)
    assert evaluation(picture).shape == (3, 32, 48)


def test_load_sizes() -> None:
    assert TrainTransform((224, 224)).load_size == (256, 256)
    assert TrainTransform((160, 320)).load_size == (366, 366)
    assert EvalTransform((224, 224)).load_size == (256, 256)
    assert EvalTransform((224, 224), 0.9).load_size == (248, 248)  # timm rounds down
    assert EvalTransform((224, 112), 1.0).load_size == (224, 112)


def test_loaded_images_are_only_cropped_in_evaluation() -> None:
    picture = image(256, 340)
    assert torch.equal(EvalTransform((224, 224))(picture), picture[:, 16:240, 58:282])


def test_random_generator_is_required() -> None:
    with pytest.raises(ValueError, match="random generator"):
        TrainTransform((8, 8))(image(9, 9))


def test_load_ratio_avoids_enlarged_crops() -> None:
    transform = TrainTransform((32, 32), (0.25, 1.0), load_ratio=2.0)
    assert transform.load_size == (64, 64)
    rng = np.random.default_rng(0)
    areas = [crop.height * crop.width for crop in (transform.draw(64, 64, rng) for _ in range(300))]
    assert min(areas) > 0.95 * 32 * 32
