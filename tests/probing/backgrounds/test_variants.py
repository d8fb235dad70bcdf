"""Tests of the variants of images, pixel by pixel against loops."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gtacli.data.base import Record
from gtacli.data.inputs import InputImage
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError
from gtacli.probing.backgrounds.variants import (
    VARIANTS,
    ImageScenes,
    Scene,
    TensorScenes,
    VariantDrawer,
    draw_variants,
    remove_object,
)

Pixels = NDArray[np.uint8]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Draw an image of at most 12 x 12 pixels with an object and a background."""
    height, width = draw(st.integers(4, 12)), draw(st.integers(4, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top, left = rng.integers(0, height - 1), rng.integers(0, width - 1)
    bottom, right = rng.integers(top + 1, height + 1), rng.integers(left + 1, width + 1)
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < 0.6
    image = rng.integers(1, 256, (3, height, width), dtype=np.uint8)
    return Scene(torch.from_numpy(image), torch.from_numpy(mask), 0)


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right), the ends exclusive."""
    points = [(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    ys, xs = [y for y, _ in points], [x for _, x in points]
    return min(ys), max(ys) + 1, min(xs), max(xs) + 1


def tiled(image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Draw only-bg-t by its definition: an image full of tiles, visible in the box."""
    height, width = mask.shape
    top, bottom, left, right = box_of(mask)
    areas = {
        "below": ((height - bottom) * width, (bottom, height, 0, width)),
        "above": (top * width, (0, top, 0, width)),
        "right": ((width - right) * height, (0, height, right, width)),
        "left": (left * height, (0, height, 0, left)),
    }
    best = "below"  # wins all ties, as in the official code; right wins over left
    for side in ("above", "right", "left"):
        if areas[side][0] > areas[best][0]:
            best = side
    y0, y1, x0, x1 = areas[best][1]
    tile = image[:, y0:y1, x0:x1]
    out = image.copy()
    for y in range(top, bottom):
        for x in range(left, right):
            out[:, y, x] = tile[:, y % tile.shape[1], x % tile.shape[2]]
    return out


@given(scenes())
def test_each_variant_equals_loops_over_pixels(scene: Scene) -> None:
    image, mask = scene.image.numpy(), scene.mask.numpy()
    found = dict(draw_variants(TensorScenes(scene.image[None], scene.mask[None], [0])))
    if not mask.any():
        assert found == {}
        return
    top, bottom, left, right = box_of(mask)
    if (bottom - top) * (right - left) > 0.9 * mask.size:
        assert found == {}
        return
    drawn = {name: pixels.numpy() for name, pixels in found[0].items()}
    assert tuple(drawn) == VARIANTS
    assert np.array_equal(drawn["original"], image)
    ground = tiled(image, mask)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            here, boxed = image[:, y, x], top <= y < bottom and left <= x < right
            black = np.zeros(3, np.uint8)
            expected = {
                "only-bg-b": black if boxed else here,
                "only-bg-t": ground[:, y, x],
                "no-fg": black if mask[y, x] else here,
                "only-fg": here if mask[y, x] else black,
                # the only image of its class is its own background
                "mixed-same": here if mask[y, x] else ground[:, y, x],
            }
            for name, pixel in expected.items():
                assert np.array_equal(drawn[name][:, y, x], pixel), (name, y, x)  # type: ignore[index]


@pytest.fixture
def gray_scenes() -> TensorScenes:
    """Four images of each of the classes 0, 2 and 5.

    Objects are gray; the value of a background is the number of its image.
    """
    labels = [0, 0, 0, 0, 2, 2, 2, 2, 5, 5, 5, 5]
    images = torch.full((12, 3, 8, 8), 200, dtype=torch.uint8)
    masks = torch.zeros(12, 8, 8, dtype=torch.bool)
    masks[:, 2:5, 2:5] = True
    for index in range(12):
        images[index][:, ~masks[index]] = index
    return TensorScenes(images, masks, labels)


def donors(scenes: TensorScenes, seed: int = 0, **more: Any) -> dict[str, list[int]]:
    """Return the image whose background each image got, read from its pixels."""
    found: dict[str, list[int]] = {"mixed-same": [], "mixed-rand": [], "mixed-next": []}
    for index, drawn in draw_variants(scenes, seed=seed, **more):
        for name, chosen in found.items():
            pixels = drawn[name]  # type: ignore[index]
            assert (pixels[:, scenes.masks[index]] == 200).all()
            (value,) = pixels[:, ~scenes.masks[index]].unique().tolist()
            chosen.append(value)
    return found


def test_backgrounds_come_from_the_class_of_the_variant(gray_scenes: TensorScenes) -> None:
    for seed in range(20):
        chosen = donors(gray_scenes, seed)
        for index, (same, following) in enumerate(
            zip(chosen["mixed-same"], chosen["mixed-next"], strict=True)
        ):
            assert gray_scenes.labels[same] == gray_scenes.labels[index]
            assert same != index
            assert gray_scenes.labels[following] == {0: 2, 2: 5, 5: 0}[gray_scenes.labels[index]]
    classes = [
        gray_scenes.labels[d] for seed in range(60) for d in donors(gray_scenes, seed)["mixed-rand"]
    ]
    fractions = [classes.count(label) / len(classes) for label in (0, 2, 5)]
    assert fractions == pytest.approx([1 / 3] * 3, abs=0.08)


def test_the_choice_depends_only_on_the_seed_and_the_image(gray_scenes: TensorScenes) -> None:
    first = donors(gray_scenes, 3)
    assert donors(gray_scenes, 3) == first
    assert donors(gray_scenes, 4) != first
    fewer = dict(draw_variants(gray_scenes, ["mixed-rand"], seed=3))
    every = dict(draw_variants(gray_scenes, seed=3))
    for index, drawn in fewer.items():
        assert torch.equal(drawn["mixed-rand"], every[index]["mixed-rand"])


def test_backgrounds_of_other_images_and_other_sizes(gray_scenes: TensorScenes) -> None:
    other = TensorScenes(
        torch.full((2, 3, 20, 12), 77, dtype=torch.uint8),
        torch.zeros(2, 20, 12, dtype=torch.bool),
        [0, 0],
    )
    other.masks[:, 3:6, 4:8] = True
    for index, drawn in draw_variants(gray_scenes, ["mixed-same", "mixed-rand"], other):
        if gray_scenes.labels[index]:
            continue
        for pixels in drawn.values():
            assert pixels.shape == (3, 8, 8)
            assert (pixels[:, ~gray_scenes.masks[index]] == 77).all()
        if index == 3:
            break
    draw = VariantDrawer(gray_scenes, ["mixed-same", "mixed-rand"], other)
    two = gray_scenes.labels.index(2)  # a class without an image among the others
    assert [*(draw(two) or {})] == ["mixed-rand"]
    assert draw.without_background == {2}
    other.masks[:] = False
    with pytest.raises(GtaError, match="no image has a background"):
        list(draw_variants(gray_scenes, ["mixed-rand"], other))


def test_images_without_a_background_are_not_chosen(gray_scenes: TensorScenes) -> None:
    gray_scenes.masks[1] = True  # the object fills the image
    gray_scenes.masks[2] = False
    chosen = [donor for seed in range(10) for donor in donors_of_first(gray_scenes, seed)]
    assert set(chosen) == {3}
    assert [index for index, _ in draw_variants(gray_scenes)] == [0, 3, *range(4, 12)]


def donors_of_first(gray_scenes: TensorScenes, seed: int) -> list[int]:
    _, drawn = next(draw_variants(gray_scenes, ["mixed-same"], seed=seed))
    return [int(drawn["mixed-same"][0, 0, 0])]


def named(record: Record) -> InputImage:
    return InputImage(str(record.path), PurePath(record.key), record)


def test_void_pixels_of_a_mask_count_as_object(tmp_path: Path) -> None:
    pixels = np.full((6, 9, 3), 9, np.uint8)
    ids = np.zeros((6, 9), np.uint8)
    ids[2:4, 3:5], ids[2:4, 5] = 1, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(ids).save(tmp_path / "m.png")
    masked = Record("a", 4, tmp_path / "a.png", tmp_path / "m.png")
    scenes = ImageScenes([named(masked)])
    scene = scenes[0]
    assert (scene.label, scenes.labels) == (4, [4])
    assert scene.image.shape == (3, 6, 9)
    assert torch.equal(scene.mask, torch.from_numpy(ids > 0))
    with pytest.raises(ImageError, match="has no mask"):
        ImageScenes([named(Record("a", 4, tmp_path / "a.png"))])[0]
    (tmp_path / "m.png").rename(tmp_path / "a.mask.png")  # the folder has no mask of b
    with pytest.raises(ImageError, match="no ground truth for b"):
        ImageScenes([InputImage(str(tmp_path / "a.png"), PurePath("b.png"))], tmp_path)[0]


def test_tiles_start_at_the_corner_of_the_image() -> None:
    """One row above the box, repeated downward."""
    image = torch.arange(5 * 6, dtype=torch.uint8).view(1, 5, 6).expand(3, 5, 6)
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[2:5, :] = True
    filled = remove_object(Scene(image, mask, 0))
    assert filled[0, 2].tolist() == image[0, 0].tolist()
    assert filled[0, 3].tolist() == image[0, 1].tolist()
    assert filled[0, 4].tolist() == image[0, 0].tolist()


def test_a_class_without_a_background_costs_no_other_class_its_images(
    gray_scenes: TensorScenes,
) -> None:
    for index, label in enumerate(gray_scenes.labels):
        if label == 2:
            gray_scenes.masks[index] = True  # fills the image
    drawn = dict(draw_variants(gray_scenes))
    assert [*drawn] == [i for i, label in enumerate(gray_scenes.labels) if label != 2]
    assert all(tuple(variants) == VARIANTS for variants in drawn.values())
