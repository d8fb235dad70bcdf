"""A pen that draws outlined shapes in the coordinates of a creature.

A creature faces right and is about two units long; its center is (0, 0), and y points down. The pen
rotates, mirrors, scales and places it on a canvas of three times the image's resolution.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Points = NDArray[np.float64]
Rng = np.random.Generator
FINE = 3
"""Canvas pixels per image pixel and side."""


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0, n: int = 28) -> Points:
    """Return the outline of an ellipse rotated by `turn` degrees."""
    t = np.linspace(0, 2 * pi, n, endpoint=False)
    a = turn * pi / 180
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + u * cos(a) - v * sin(a), y + u * sin(a) + v * cos(a)], axis=1)


def bezier(*corners: tuple[float, float], n: int = 12) -> Points:
    """Return `n` points of the Bézier curve with these control points."""
    points = [np.repeat([corner], n, axis=0).astype(float) for corner in corners]
    t = np.linspace(0, 1, n)[:, None]
    while len(points) > 1:
        points = [p * (1 - t) + q * t for p, q in pairwise(points)]
    return points[0]


def dark(color: Color, factor: float = 0.6) -> Color:
    """Return the color multiplied by `factor`."""
    r, g, b = (int(channel * factor) for channel in color)
    return r, g, b


def light(color: Color, fraction: float = 0.45) -> Color:
    """Return the color mixed with a fraction of white."""
    r, g, b = (int(channel + (255 - channel) * fraction) for channel in color)
    return r, g, b


class Pen:
    """A pen that draws on `image`, which is RGBA and transparent at first."""

    def __init__(
        self,
        size: int,
        ink: Color,
        at: tuple[float, float],
        scale: float,
        turn: float,
        mirror: bool,
    ) -> None:
        """Place a creature: `at` and `scale` (a unit) relative to the image, `turn` in degrees."""
        side = size * FINE
        # Transparent pixels have the color of the ink, so that edges stay dark when reduced.
        self.image = Image.new("RGBA", (side, side), (*ink, 0))
        self.ink = ink
        self._unit = scale * side
        self._line = max(2, round(0.045 * self._unit))
        a = turn * pi / 180
        flip = -1 if mirror else 1
        self._matrix = self._unit * np.array([[flip * cos(a), flip * sin(a)], [-sin(a), cos(a)]])
        self._at = np.array(at) * side
        self._draw = ImageDraw.Draw(self.image)

    def shape(self, points: Points, fill: Color, outline: bool = True) -> None:
        """Draw a filled polygon."""
        corners = self._place(points)
        self._draw.polygon(corners, fill=fill)
        if outline:
            self._outline(corners)

    def stroke(self, points: Points, width: float, fill: Color, outline: bool = True) -> None:
        """Draw a line with round ends; `width` is in units."""
        corners = self._place(points)
        thick = max(1, round(width * self._unit))
        if outline:
            self._thick(corners, thick + 2 * self._line, self.ink)
        self._thick(corners, thick, fill)

    def dot(self, x: float, y: float, radius: float, fill: Color, outline: bool = False) -> None:
        """Draw a disk."""
        self.shape(ellipse(x, y, radius, radius, n=16), fill, outline)

    def eye(self, x: float, y: float, radius: float = 0.1) -> None:
        """Draw a white eye with a pupil and a highlight."""
        self.dot(x, y, radius, (250, 250, 245), outline=True)
        self.dot(x + 0.25 * radius, y, 0.6 * radius, (25, 20, 30))
        self.dot(x + 0.4 * radius, y - 0.3 * radius, 0.22 * radius, (255, 255, 255))

    def inside(self, points: Points, marks: Iterable[Points], fill: Color) -> None:
        """Draw marks clipped to the shape `points`, then the shape's outline again."""
        mask = Image.new("L", self.image.size)
        corners = self._place(points)
        ImageDraw.Draw(mask).polygon(corners, fill=255)
        layer = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(layer)
        for mark in marks:
            draw.polygon(self._place(mark), fill=255)
        box = mask.getbbox()
        if box is not None:
            cut = Image.new("L", self.image.size)
            cut.paste(layer.crop(box), box, mask.crop(box))
            self.image.paste(fill, box, cut.crop(box))
        self._outline(corners)

    def _outline(self, corners: list[tuple[float, float]]) -> None:
        # Joints are slow and visible only at sharp turns, that is, on shapes with few corners.
        joint = "curve" if len(corners) < 10 else None
        self._draw.line([*corners, *corners[:2]], self.ink, self._line, joint=joint)

    def _thick(self, corners: Sequence[tuple[float, float]], width: int, fill: Color) -> None:
        joint = "curve" if len(corners) < 10 or width > 8 else None  # see _outline
        self._draw.line(corners, fill, width, joint=joint)
        r = width / 2
        for x, y in (corners[0], corners[-1]):
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill)

    def _place(self, points: Points) -> list[tuple[float, float]]:
        return [(x, y) for x, y in (points @ self._matrix.T + self._at).tolist()]
