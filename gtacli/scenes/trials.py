"""Scenes of both worlds that calibrate object discovery: a creature on a ground of two sceneries.

On a single scenery the mean color of a patch separates a drawn creature from its background, and
any network finds it. Photographs are harder. With two sceneries behind each creature, a method that
relies on color or texture alone separates the sceneries instead.
"""

import numpy as np
from numpy.typing import NDArray

from gtacli.scenes.scene import paint_on
from gtacli.scenes.scenery import SCENERY
from gtacli.scenes.world import DEMO, RELATIVES

SEED = 20240322
_SPECIES = tuple(s for pair in zip(DEMO.species, RELATIVES, strict=True) for s in pair)


def draw_trial(index: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw scene `index` of a fixed series: pixels (size, size, 3) and the creature's mask."""
    rng = np.random.default_rng((SEED, index))
    ground = _ground(index, size, rng)
    image, mask = paint_on(ground, _SPECIES[index % len(_SPECIES)], rng)
    return np.asarray(image), np.asarray(mask) > 127


def draw_ground(index: int, size: int) -> NDArray[np.uint8]:
    """Draw the ground of scene `index` without a creature: pixels (size, size, 3)."""
    ground = _ground(index, size, np.random.default_rng((SEED, index)))
    pixels: NDArray[np.uint8] = np.clip(ground + 0.5, 0, 255).astype(np.uint8)
    return pixels


def _ground(index: int, size: int, rng: np.random.Generator) -> NDArray[np.floating]:
    drawers = tuple(SCENERY.values())
    one = 5 * index + index // len(drawers)
    other = one + 1 + index % (len(drawers) - 1)
    grounds = [drawers[k % len(drawers)](size, rng) for k in (one, other)]
    return np.where(_side(size, rng)[..., None], *grounds)


def _side(size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return one side of a wavy line near the center of the image."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    turn, shift = rng.uniform(0, np.pi), rng.uniform(-0.15, 0.15)
    wave = 0.02 * np.sin(8 * (x - y))
    side: NDArray[np.bool_] = np.cos(turn) * x + np.sin(turn) * y > shift + wave
    return side
