"""Drawing of one image: a creature with its shadow on a scenery, and its mask."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.scenes.pen import FINE, Pen
from gtacli.scenes.scenery import SCENERY
from gtacli.scenes.world import SIZE, Species

_INK = (36, 26, 34)


def paint(
    species: Species, scenery: str, rng: np.random.Generator, size: int = SIZE
) -> tuple[Image.Image, Image.Image]:
    """Draw a creature on a scenery; return the RGB image and the mask (0 or 255), size x size."""
    return paint_on(SCENERY[scenery](size, rng), species, rng)


def paint_on(
    ground_hw3: NDArray[np.floating], species: Species, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """Draw a creature on a square ground with values 0 to 255, see `paint`."""
    ground, size = ground_hw3, len(ground_hw3)
    scale = rng.uniform(0.22, 0.33)
    room = 0.5 - 1.22 * scale
    x, y = 0.5 + rng.uniform(-1, 1, 2) * room
    turn = rng.uniform(-1, 1) * species.turn
    pen = Pen(size, _INK, (x, y), scale, turn, bool(rng.random() < 0.5))
    species.draw(pen, species.coat(rng), species.trait, rng)

    drawn = np.asarray(pen.image.reduce(FINE), dtype=np.float32)
    alpha = drawn[..., 3:] / 255
    row, column = np.mgrid[:size, :size].astype(np.float32) / size
    # Light from the upper left, shadow to the lower right; otherwise creatures look pasted.
    lit = 1.08 - 0.28 * ((row - y) + 0.5 * (column - x)) / (2 * scale)
    body = drawn[..., :3] * lit[..., None] + 6 * rng.standard_normal((size, size, 1), np.float32)
    off = np.exp(-(((column - x - 0.02) / scale) ** 2) - ((row - y - 0.5 * scale) / scale) ** 2)
    ground = ground * (1 - 0.45 * off[..., None])
    picture = (ground * (1 - alpha) + body * alpha) * rng.uniform(0.85, 1.12)
    return Image.fromarray(_bytes(picture)), Image.fromarray(_bytes((alpha[..., 0] > 0.5) * 255.0))


def _bytes(picture: NDArray[np.floating]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return rounded
