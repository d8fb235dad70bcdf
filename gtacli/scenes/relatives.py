"""The creatures of `demo-source`: snails, butterflies, turtles and octopuses, three species each.

None of them is a class of `demo`; the drawing of eyes, coats and limbs is the same. `world`
combines each species with four coats.
"""

from math import cos, pi, sin

import numpy as np

from gtacli.scenes.creatures import Coat
from gtacli.scenes.patterns import make_marks
from gtacli.scenes.pen import Pen, Points, Rng, bezier, dark, ellipse, light


def snail(pen: Pen, coat: Coat, trait: str, rng: Rng) -> None:
    """Draw a snail; `trait` is spiral, cone or spiked (the shell)."""
    stretch = rng.uniform(-0.12, 0.12)
    skin = light(coat.mark, 0.35)
    for x, lean in ((0.82, 0.05), (0.98, 0.22)):
        tip = (x + lean + stretch / 2, -0.62 + stretch)
        pen.stroke(bezier((x, 0.1), (x, -0.3), tip), 0.06, skin)
        pen.eye(*tip, 0.1)
    foot = bezier((-1.15 + stretch, 0.82), (-0.4, 0.2), (0.5, 0.9), (0.62, 0.0), (1.25, -0.15))
    sole = bezier((1.25, -0.15), (1.35, 0.5), (1.0, 0.84))
    pen.shape(np.concatenate([foot, sole]), skin)
    if trait == "cone":
        shell = np.concatenate(
            [bezier((0.42, 0.62), (0.55, -0.1), (-0.65, -1.1)), bezier((-0.8, -0.9), (-0.85, 0.6))]
        )
    else:
        shell = ellipse(-0.22, 0.0, 0.68, 0.64)
    if trait == "spiked":
        for angle in np.linspace(165, 345, 7) + rng.uniform(-6, 6):
            a = angle * pi / 180
            base = np.array([-0.22, 0.0]) + np.array([0.6 * cos(a), 0.56 * sin(a)])
            side = 0.13 * np.array([-sin(a), cos(a)])
            tip = base + 0.36 * np.array([cos(a), sin(a)])
            pen.shape(np.array([base - side, tip, base + side]), dark(coat.body, 0.7))
    pen.shape(shell, coat.body)
    pen.inside(shell, make_marks(coat.kind, (-0.9, -0.9, 0.5, 0.65), rng), coat.mark)
    if trait == "spiral":
        t = np.linspace(0, 4.2 * pi, 44)
        r = 0.05 + 0.5 * t / t[-1]
        spiral = np.stack([-0.2 + r * np.cos(t), 0.02 + r * np.sin(t)], axis=1)
        pen.stroke(spiral, 0.06, dark(coat.body, 0.45), outline=False)


def butterfly(pen: Pen, coat: Coat, trait: str, rng: Rng) -> None:
    """Draw a butterfly from above; `trait` is round, swallow (tailed wings) or scallop."""
    spread = rng.uniform(0.82, 1.05)
    for side in (-1, 1):
        s = side * spread
        hind: list[tuple[float, float]]
        if trait == "swallow":
            hind = [
                (0.0, 0.0),
                (-0.3, 1.0 * s),
                (-1.5, 1.1 * s),
                (-0.75, 0.5 * s),
                (-0.6, 0.05 * s),
            ]
        else:
            hind = [(0.05, 0.0), (-0.1, 1.25 * s), (-1.25, 1.1 * s), (-0.9, 0.05 * s)]
        wings = [
            _closed(bezier(*hind, n=20)),
            bezier((0.1, 0.0), (1.2, 0.5 * s), (0.7, 1.8 * s), (-0.25, 0.9 * s), (-0.15, 0), n=20),
        ]
        for wing in wings:
            if trait == "scallop":
                wing = _scalloped(wing)
            pen.shape(wing, coat.body)
            low, high = wing.min(axis=0), wing.max(axis=0)
            box = (low[0], low[1], high[0], high[1])
            pen.inside(wing, make_marks(coat.kind, box, rng, 0.9), coat.mark)
        pen.shape(ellipse(0.42, 0.72 * s, 0.16, 0.16), light(coat.mark, 0.3))
        pen.dot(0.42, 0.72 * s, 0.07, pen.ink)
        pen.stroke(bezier((0.6, 0.0), (0.9, 0.1 * side), (1.1, 0.35 * s)), 0.03, pen.ink, False)
    pen.shape(ellipse(-0.1, 0, 0.62, 0.1), dark(coat.body, 0.45))
    pen.dot(0.58, 0, 0.15, dark(coat.body, 0.5), outline=True)
    for side in (-1, 1):
        pen.eye(0.64, side * 0.1, 0.07)


def turtle(pen: Pen, coat: Coat, trait: str, rng: Rng) -> None:
    """Draw a turtle; `trait` is dome, flat (with flippers) or ridge (plates on the back)."""
    step = rng.uniform(-0.12, 0.12)
    skin = light(coat.mark, 0.25)
    reach = rng.uniform(-0.08, 0.08)
    if trait == "flat":
        for x, way in ((-0.5, -1), (0.35, 1)):
            end = (x - 0.5 + step * way, 1.0)
            pen.shape(bezier((x - 0.1, 0.3), (x, 1.1), end, (x + 0.5, 0.3), n=16), skin)
    else:
        for x, bend in ((-0.5, step), (-0.25, -step), (0.3, step), (0.5, -step)):
            pen.stroke(np.array([(x, 0.3), (x + bend, 0.72)]), 0.2, skin)
    pen.shape(np.array([(-0.75, 0.2), (-1.12, 0.42 + step), (-0.7, 0.42)]), skin)
    pen.stroke(bezier((0.55, 0.3), (0.8, 0.2), (0.98 + reach, -0.1)), 0.24, skin)
    pen.shape(ellipse(1.08 + reach, -0.16, 0.27, 0.22, -8), skin)
    pen.eye(1.16 + reach, -0.22, 0.085)
    mouth = bezier((1.3 + reach, -0.08), (1.2 + reach, -0.02), (1.12 + reach, -0.04))
    pen.stroke(mouth, 0.025, pen.ink, outline=False)
    top = -0.45 if trait == "flat" else -0.95
    if trait == "ridge":
        for x, y in ((-0.58, -0.3), (-0.3, -0.52), (0.02, -0.58), (0.34, -0.42)):
            plate = np.array([(x - 0.17, y + 0.15), (x - 0.06, y - 0.36), (x + 0.17, y + 0.12)])
            pen.shape(plate, coat.mark)
    shell = bezier((-0.85, 0.42), (-0.85, top), (0.72, top), (0.75, 0.42), n=22)
    pen.shape(shell, coat.body)
    pen.inside(shell, make_marks(coat.kind, (-0.85, top * 0.7, 0.75, 0.42), rng), coat.mark)
    pen.stroke(np.array([(-0.86, 0.42), (0.76, 0.42)]), 0.1, dark(coat.body, 0.7))


def octopus(pen: Pen, coat: Coat, trait: str, rng: Rng) -> None:
    """Draw an octopus; `trait` is ball, tall or finned (the head)."""
    tall = {"ball": 0.0, "tall": 0.42, "finned": 0.2}[trait]
    for index, x in enumerate(np.linspace(-0.5, 0.5, 6)):
        way = 1 if x > 0 else -1
        curl = rng.uniform(-0.15, 0.2)
        end = (x * 2.1 + way * curl, 0.72 + rng.uniform(-0.1, 0.15))
        bend = (x * 2.0 + way * 0.3, 1.15)
        arm = coat.body if index % 2 else dark(coat.body, 0.8)
        pen.stroke(bezier((x, 0.15), (x * 1.2, 1.0), bend, end), 0.15, arm)
    if trait == "finned":
        for way in (-1, 1):
            flap = bezier((0.4 * way, -0.6), (1.2 * way, -1.2), (1.1 * way, -0.1), (0.5 * way, 0.0))
            pen.shape(flap, light(coat.mark, 0.25))
    lean = rng.uniform(-0.08, 0.08)
    head = bezier(
        (-0.55, 0.3),
        (-0.95, -0.75 - tall),
        (lean, -1.5 - tall),
        (0.95, -0.75 - tall),
        (0.55, 0.3),
        n=24,
    )
    pen.shape(head, coat.body)
    pen.inside(head, make_marks(coat.kind, (-0.7, -1.0 - tall, 0.7, -0.15), rng, 1.1), coat.mark)
    for x in (-0.22, 0.24):
        pen.eye(x, -0.02, 0.15)
    pen.stroke(bezier((-0.1, 0.2), (0.02, 0.28), (0.14, 0.2)), 0.03, pen.ink, outline=False)


def _closed(wing: Points) -> Points:
    return np.concatenate([wing, wing[:1]])


def _scalloped(wing: Points) -> Points:
    """Pull every third point inward, so that the wing's edge has teeth."""
    middle = wing.mean(axis=0)
    teeth = np.where(np.arange(len(wing)) % 3 == 1, 0.83, 1.0)[:, None]
    scalloped: Points = middle + (wing - middle) * teeth
    return scalloped
