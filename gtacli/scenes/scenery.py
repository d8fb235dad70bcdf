"""Twelve textured backgrounds, drawn anew for every image: float (size, size, 3), 0 to 255."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gtacli.scenes.pen import Color, Rng

Picture = NDArray[np.float32]


def noise(size: int, cells: int | tuple[int, int], rng: Rng) -> Picture:
    """Return smooth noise in 0..1, (size, size); `cells` per side, or (down, across)."""
    down, across = (cells, cells) if isinstance(cells, int) else cells
    grid = rng.random((down, across), dtype=np.float32)
    field = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(field, dtype=np.float32), 0, 1)


def blend(first: Color, second: Color, fraction: Picture) -> Picture:
    """Mix two colors by the second's fraction (size, size)."""
    a, b = np.array(first, np.float32), np.array(second, np.float32)
    return a + (b - a) * fraction[..., None]


def _drawn(base: Picture) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.fromarray(base.astype(np.uint8))
    return image, ImageDraw.Draw(image)


def _back(image: Image.Image) -> Picture:
    return np.asarray(image, dtype=np.float32)


def _shade(color: Color, factor: float) -> Color:
    r, g, b = (min(255, int(channel * factor)) for channel in color)
    return r, g, b


def meadow(size: int, rng: Rng) -> Picture:
    """Draw blades of grass."""
    image, draw = _drawn(blend((58, 110, 48), (122, 168, 74), noise(size, 6, rng)))
    for _ in range(170):
        x, y = rng.uniform(0, size, 2)
        lean, height = rng.uniform(-4, 4), rng.uniform(5, 13)
        draw.line((x, y, x + lean, y - height), _shade((92, 152, 60), rng.uniform(0.6, 1.35)))
    return _back(image)


def pebbles(size: int, rng: Rng) -> Picture:
    """Draw round stones."""
    image, draw = _drawn(blend((70, 66, 64), (92, 88, 84), noise(size, 12, rng)))
    for _ in range(120):
        x, y = rng.uniform(0, size, 2)
        rx = rng.uniform(3, 8)
        ry = rx * rng.uniform(0.6, 0.9)
        tone = _shade((150, 142, 134), rng.uniform(0.75, 1.25))
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), tone, _shade(tone, 0.6))
    return _back(image)


def pond(size: int, rng: Rng) -> Picture:
    """Draw waves on water."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    phase = y * rng.uniform(0.42, 0.6) + 5 * noise(size, 5, rng) + 0.04 * x
    wave = 0.5 + 0.5 * np.sin(phase)
    return blend((34, 92, 138), (118, 190, 212), 0.25 * noise(size, 4, rng) + 0.7 * wave**2)


def dunes(size: int, rng: Rng) -> Picture:
    """Draw ridges of sand."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    ridge = (y * 0.09 + x * rng.uniform(0.02, 0.06) + 1.4 * noise(size, 4, rng)) % 1
    grain = rng.random((size, size), dtype=np.float32)
    return blend((190, 146, 92), (240, 208, 150), 0.75 * ridge + 0.25 * grain)


def bark(size: int, rng: Rng) -> Picture:
    """Draw the cracked bark of a tree."""
    streak = noise(size, (4, 30), rng)
    crack = np.abs(noise(size, (5, 18), rng) - 0.5) < 0.06
    picture = blend((84, 58, 42), (158, 118, 84), streak)
    picture[crack] *= 0.45
    return picture


def leaves(size: int, rng: Rng) -> Picture:
    """Draw fallen leaves."""
    image, draw = _drawn(blend((74, 46, 30), (104, 66, 38), noise(size, 8, rng)))
    colors = ((196, 88, 40), (214, 140, 48), (160, 58, 40), (132, 110, 50))
    for _ in range(75):
        x, y = rng.uniform(0, size, 2)
        a, r = rng.uniform(0, 3.14), rng.uniform(5, 10)
        u, v = np.array([np.cos(a), np.sin(a)]) * r, np.array([-np.sin(a), np.cos(a)]) * 0.45 * r
        at = np.array([x, y])
        tone = _shade(colors[rng.integers(4)], rng.uniform(0.75, 1.15))
        draw.polygon([tuple(p) for p in (at - u, at + v, at + u, at - v)], tone)
        draw.line([tuple(at - u), tuple(at + u)], _shade(tone, 0.65))
    return _back(image)


def snow(size: int, rng: Rng) -> Picture:
    """Draw sparkling snow with hollows."""
    picture = blend((186, 204, 226), (248, 250, 255), noise(size, 5, rng))
    sparkle = rng.random((size, size)) > 0.97
    picture[sparkle] = 255
    hollow = noise(size, 14, rng) < 0.28
    picture[hollow] *= 0.9
    return picture


def bricks(size: int, rng: Rng) -> Picture:
    """Draw a brick wall."""
    image, draw = _drawn(blend((196, 186, 172), (214, 206, 192), noise(size, 20, rng)))
    h, w = rng.uniform(9, 12), rng.uniform(19, 25)
    shift = rng.uniform(0, w, 2)
    for row in range(int(size / h) + 2):
        for column in range(-2, int(size / w) + 2):
            x = column * w + shift[0] + (row % 2) * w / 2
            y = row * h - shift[1] % h
            tone = _shade((168, 82, 62), rng.uniform(0.75, 1.2))
            draw.rectangle((x, y, x + w - 2, y + h - 2), tone)
    return _back(image) + 24 * (rng.random((size, size, 1), dtype=np.float32) - 0.5)


def night(size: int, rng: Rng) -> Picture:
    """Draw a sky with stars."""
    image, draw = _drawn(blend((18, 18, 52), (70, 44, 104), noise(size, 4, rng)))
    for _ in range(90):
        x, y = rng.uniform(0, size, 2)
        r = rng.choice([0.4, 0.6, 1.0, 1.6])
        draw.ellipse((x - r, y - r, x + r, y + r), _shade((255, 246, 214), rng.uniform(0.5, 1)))
    return _back(image)


def clouds(size: int, rng: Rng) -> Picture:
    """Draw clouds in a blue sky."""
    puff = 0.6 * noise(size, 4, rng) + 0.3 * noise(size, 9, rng) + 0.1 * noise(size, 20, rng)
    return blend((92, 156, 222), (250, 250, 252), np.clip((puff - 0.36) * 3.4, 0, 1))


def reeds(size: int, rng: Rng) -> Picture:
    """Draw upright reeds."""
    image, draw = _drawn(blend((124, 132, 78), (160, 160, 96), noise(size, (3, 10), rng)))
    for _ in range(46):
        x, w = rng.uniform(-4, size + 4), rng.uniform(1.5, 4)
        lean = rng.uniform(-7, 7)
        tone = _shade((176, 168, 88), rng.uniform(0.55, 1.25))
        draw.polygon([(x, size), (x + w, size), (x + lean + w / 2, 0), (x + lean, 0)], tone)
    return _back(image)


def coral(size: int, rng: Rng) -> Picture:
    """Draw branching coral."""
    field = np.abs(noise(size, 9, rng) - 0.5) + 0.35 * np.abs(noise(size, 18, rng) - 0.5)
    ridge = np.clip(1 - field * 5, 0, 1)
    return blend((38, 88, 96), (226, 116, 122), ridge)


SCENERY: dict[str, Callable[[int, Rng], Picture]] = {
    scene.__name__: scene
    for scene in (
        meadow, pebbles, pond, dunes, bark, leaves,
        snow, bricks, night, clouds, reeds, coral,
    )
}  # fmt: skip
