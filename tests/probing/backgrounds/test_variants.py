"""Variants of images, pixel by pixel against plain loops."""

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
    HeldScenes,
    ImageScenes,
    Scene,
    variants,
    without_object,
)

Pixels = NDArray[np.uint8]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """An image of at most 12 x 12 with an object that leaves a background."""
    height, width = draw(st.integers(4, 12)), draw(st.integers(4, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top, left = rng.integers(0, height - 1), rng.integers(0, width - 1)
    bottom, right = rng.integers(top + 1, height + 1), rng.integers(left + 1, width + 1)
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < 0.6
    image = rng.integers(1, 256, (3, height, width), dtype=np.uint8)
    return Scene(torch.from_numpy(image), torch.from_numpy(mask), 0)


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right), the ends exclusive."""
    points = [(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    ys, xs = [y for y, _ in points], [x for _, x in points]
    return min(ys), max(ys) + 1, min(xs), max(xs) + 1


def tiled(image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """only-bg-t by its definition: a tile is laid over the whole image, and seen in the box."""
    height, width = mask.shape
    top, bottom, left, right = box_of(mask)
    areas = {
        "below": ((height - bottom) * width, (bottom, height, 0, width)),
        "above": (top * width, (0, top, 0, width)),
        "right": ((width - right) * height, (0, height, right, width)),
        "left": (left * height, (0, height, 0, left)),
    }
    best = "below"  # wins every tie, as in the official code; the right one over the left
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
def test_each_variant_against_loops(scene: Scene) -> None:
    image, mask = scene.image.numpy(), scene.mask.numpy()
    found = dict(variants(HeldScenes(scene.image[None], scene.mask[None], [0])))
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
                # alone in its class, an image is its own background
                "mixed-same": here if mask[y, x] else ground[:, y, x],
            }
            for name, pixel in expected.items():
                assert np.array_equal(drawn[name][:, y, x], pixel), (name, y, x)  # type: ignore[index]


@pytest.fixture
def held() -> HeldScenes:
    """Four images each of the classes 0, 2 and 5: the object is grey, the background says which
    image it is of."""
    labels = [0, 0, 0, 0, 2, 2, 2, 2, 5, 5, 5, 5]
    images = torch.full((12, 3, 8, 8), 200, dtype=torch.uint8)
    masks = torch.zeros(12, 8, 8, dtype=torch.bool)
    masks[:, 2:5, 2:5] = True
    for index in range(12):
        images[index][:, ~masks[index]] = index
    return HeldScenes(images, masks, labels)


def donors(of: HeldScenes, seed: int = 0, **more: Any) -> dict[str, list[int]]:
    """Which image's background each image got, read off its pixels."""
    found: dict[str, list[int]] = {"mixed-same": [], "mixed-rand": [], "mixed-next": []}
    for index, drawn in variants(of, seed=seed, **more):
        for name, chosen in found.items():
            pixels = drawn[name]  # type: ignore[index]
            assert (pixels[:, of.masks[index]] == 200).all()
            (value,) = pixels[:, ~of.masks[index]].unique().tolist()
            chosen.append(value)
    return found


def test_backgrounds_come_from_the_class_that_the_variant_names(held: HeldScenes) -> None:
    for seed in range(20):
        chosen = donors(held, seed)
        for index, (same, following) in enumerate(
            zip(chosen["mixed-same"], chosen["mixed-next"], strict=True)
        ):
            assert held.labels[same] == held.labels[index]
            assert same != index
            assert held.labels[following] == {0: 2, 2: 5, 5: 0}[held.labels[index]]
    of_any = [held.labels[d] for seed in range(60) for d in donors(held, seed)["mixed-rand"]]
    shares = [of_any.count(label) / len(of_any) for label in (0, 2, 5)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.08)


def test_the_choice_is_the_seeds_and_each_images_own(held: HeldScenes) -> None:
    first = donors(held, 3)
    assert donors(held, 3) == first
    assert donors(held, 4) != first
    fewer = dict(variants(held, ["mixed-rand"], seed=3))
    every = dict(variants(held, seed=3))
    for index, drawn in fewer.items():
        assert torch.equal(drawn["mixed-rand"], every[index]["mixed-rand"])


def test_backgrounds_of_other_images_and_other_sizes(held: HeldScenes) -> None:
    other = HeldScenes(
        torch.full((2, 3, 20, 12), 77, dtype=torch.uint8),
        torch.zeros(2, 20, 12, dtype=torch.bool),
        [0, 0],
    )
    other.masks[:, 3:6, 4:8] = True
    for index, drawn in variants(held, ["mixed-same", "mixed-rand"], other):
        if held.labels[index]:
            continue
        for pixels in drawn.values():
            assert pixels.shape == (3, 8, 8)
            assert (pixels[:, ~held.masks[index]] == 77).all()
        if index == 3:
            break
    with pytest.raises(GtaError, match="no image of class 2 shows a background for mixed-same"):
        list(variants(held, ["mixed-same"], other))


def test_images_that_show_no_background_are_not_chosen(held: HeldScenes) -> None:
    held.masks[1] = True  # an object that fills its image
    held.masks[2] = False
    chosen = [donor for seed in range(10) for donor in donors_of_first(held, seed)]
    assert set(chosen) == {3}
    assert [index for index, _ in variants(held)] == [0, 3, *range(4, 12)]


def donors_of_first(held: HeldScenes, seed: int) -> list[int]:
    _, drawn = next(variants(held, ["mixed-same"], seed=seed))
    return [int(drawn["mixed-same"][0, 0, 0])]


def named(record: Record) -> InputImage:
    return InputImage(str(record.path), PurePath(record.key), record)


def test_records_and_what_is_open_in_their_masks(tmp_path: Path) -> None:
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
    (tmp_path / "m.png").rename(tmp_path / "a.mask.png")  # no mask of that name in the folder
    with pytest.raises(ImageError, match="no ground truth for b"):
        ImageScenes([InputImage(str(tmp_path / "a.png"), PurePath("b.png"))], tmp_path)[0]


def test_the_tile_is_laid_from_the_images_corner() -> None:
    """An example by hand: one row above the box, repeated below itself."""
    image = torch.arange(5 * 6, dtype=torch.uint8).view(1, 5, 6).expand(3, 5, 6)
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[2:5, :] = True
    filled = without_object(Scene(image, mask, 0))
    assert filled[0, 2].tolist() == image[0, 0].tolist()
    assert filled[0, 3].tolist() == image[0, 1].tolist()
    assert filled[0, 4].tolist() == image[0, 0].tolist()
