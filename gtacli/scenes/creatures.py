"""The creatures of `demo`: pips (birds), beetles, fish and lopers, three species each.

Species of a genus share their body and differ in a crest, a tail, ears, horns or the coat. Each
function draws one individual with a pen.
"""

from dataclasses import dataclass

import numpy as np

from gtacli.scenes.patterns import make_marks
from gtacli.scenes.pen import Color, Pen, Rng, bezier, dark, ellipse, light


@dataclass(frozen=True)
class Coat:
    """The colors of an individual's body and marks, and the kind of marks."""

    body: Color
    mark: Color
    kind: str


def pip(pen: Pen, coat: Coat, trait: str, rng: Rng) -> None:
    """Draw a small round bird; `trait` is crest, longtail or bigbeak."""
    swing, lift = rng.uniform(-0.12, 0.12, 2)
    fat = rng.uniform(0.94, 1.06)
    for x, bend in ((-0.05, swing), (0.2, -swing)):
        foot = (x + bend, 0.92)
        pen.stroke(bezier((x, 0.5), (x, 0.75), foot), 0.05, (214, 138, 52))
        for toe in (-0.1, 0.05, 0.18):
            pen.stroke(np.array([foot, (foot[0] + toe, 0.98)]), 0.03, (214, 138, 52), False)
    if trait == "longtail":
        for drop in (0.34, 0.16):
            end = (-1.3, drop + lift)
            pen.stroke(bezier((-0.45, 0.12), (-0.9, 0.1), end), 0.12, dark(coat.body, 0.7))
    else:
        tail = np.array([(-0.45, -0.05), (-0.92, -0.18 + lift), (-0.88, 0.12 + lift), (-0.4, 0.3)])
        pen.shape(tail, dark(coat.body, 0.75))
    body = ellipse(0, 0.1, 0.66 * fat, 0.54, -14)
    pen.shape(body, coat.body)
    pen.inside(body, [ellipse(0.14, 0.46, 0.52, 0.3, -14)], light(coat.body, 0.6))
    pen.inside(body, make_marks(coat.kind, (-0.7, -0.5, 0.2, 0.55), rng, 1.1), coat.mark)
    if trait == "crest":
        for x, height in ((0.28, 0.28), (0.4, 0.4), (0.52, 0.34)):
            tip = (x - 0.16, -0.72 - height + lift)
            pen.shape(np.array([(x - 0.09, -0.62), tip, (x + 0.1, -0.64)]), coat.mark)
    pen.dot(0.46, -0.36, 0.37, coat.body, outline=True)
    if trait == "bigbeak":
        upper = bezier((0.72, -0.56), (1.15, -0.6), (1.3, -0.14))
        beak = np.concatenate([upper, bezier((1.3, -0.14), (1.0, -0.16), (0.74, -0.18))])
        pen.shape(beak, (238, 120, 48))
    else:
        pen.shape(np.array([(0.78, -0.46), (1.08, -0.32), (0.77, -0.22)]), (240, 168, 60))
    wing = ellipse(-0.14, 0.08 + 0.3 * lift, 0.4, 0.24, 14 + 60 * lift)
    pen.shape(wing, dark(coat.body, 0.78))
    pen.eye(0.56, -0.42, 0.12)


def beetle(pen: Pen, coat: Coat, trait: str, rng: Rng) -> None:
    """Draw a beetle from above, head to the right; `trait` is horn, feelers or jaws."""
    wide = rng.uniform(0.48, 0.55)
    for x, reach in ((-0.4, -0.42), (-0.05, 0.02), (0.3, 0.4)):
        for side in (-1, 1):
            step = rng.uniform(-0.1, 0.1)
            knee = (x + reach * 0.6 + step, side * (wide + 0.26))
            foot = (x + reach * 1.3 + step, side * (wide + 0.42))
            pen.stroke(np.array([(x, side * wide * 0.7), knee, foot]), 0.06, dark(coat.body, 0.4))
    if trait == "feelers":
        for side in (-1, 1):
            curl = side * (0.55 + rng.uniform(-0.1, 0.1))
            pen.stroke(bezier((0.85, side * 0.1), (1.15, side * 0.2), (1.3, curl)), 0.04, pen.ink)
            pen.dot(1.3, curl, 0.09, coat.mark, outline=True)
    elif trait == "horn":
        horn = np.array([(0.85, -0.13), (1.4, -0.04), (1.46, 0.06), (1.3, 0.06), (0.85, 0.13)])
        pen.shape(horn, dark(coat.body, 0.55))
    else:
        for side in (-1, 1):
            gape = side * rng.uniform(0.28, 0.36)
            jaw = bezier((0.88, side * 0.16), (1.15, gape * 1.5), (1.36, side * 0.06))
            pen.stroke(jaw, 0.09, dark(coat.body, 0.5))
    pen.shape(ellipse(0.76, 0, 0.22, 0.25), dark(coat.body, 0.5))
    pen.shape(ellipse(0.48, 0, 0.26, wide * 0.82), dark(coat.body, 0.68))
    back = ellipse(-0.22, 0, 0.72, wide)
    pen.shape(back, coat.body)
    pen.inside(back, make_marks(coat.kind, (-0.95, -wide, 0.5, wide), rng, 1.15), coat.mark)
    pen.inside(back, [ellipse(-0.25, -0.55 * wide, 0.42, 0.06)], light(coat.body, 0.55))
    pen.stroke(np.array([(-0.93, 0.0), (0.3, 0.0)]), 0.03, pen.ink, outline=False)
    for side in (-1, 1):
        pen.eye(0.86, side * 0.17, 0.075)


def fish(pen: Pen, coat: Coat, trait: str, rng: Rng) -> None:
    """Draw a fish; `trait` is sail (high back fin), forktail or veil (long lower fins)."""
    beat = rng.uniform(-0.14, 0.14)
    fin = light(coat.mark, 0.3)
    if trait == "forktail":
        tail = [(-0.6, 0.0), (-1.32, -0.55 + beat), (-1.02, beat), (-1.32, 0.55 + beat)]
    elif trait == "veil":
        tail = [(-0.6, -0.1), (-1.1, -0.48 + beat), (-1.3, beat), (-1.1, 0.48 + beat), (-0.6, 0.1)]
    else:
        tail = [(-0.6, -0.05), (-1.12, -0.38 + beat), (-1.08, 0.38 + beat), (-0.6, 0.05)]
    pen.shape(np.array(tail), fin)
    if trait == "sail":
        sail = bezier((0.45, -0.3), (0.3, -1.35 + beat), (-0.5, -1.1), (-0.62, -0.2))
        pen.shape(sail, fin)
        for x in (-0.28, 0.0, 0.25):
            pen.stroke(np.array([(x, -0.35), (x - 0.1, -0.8)]), 0.025, dark(fin), outline=False)
    else:
        pen.shape(bezier((0.3, -0.38), (0.05, -0.85), (-0.45, -0.62), (-0.4, -0.28)), fin)
    if trait == "veil":
        for x in (0.15, -0.2):
            end = (x - 0.55 + beat, 1.05)
            pen.shape(bezier((x, 0.35), (x - 0.05, 0.8), end, (x - 0.3, 0.3), n=16), fin)
    else:
        pen.shape(bezier((-0.05, 0.38), (-0.2, 0.75), (-0.45, 0.62), (-0.4, 0.28)), fin)
    deep = rng.uniform(0.86, 1.0)
    back = bezier((1.0, 0.0), (0.5, -0.82 * deep), (-0.4, -0.62 * deep), (-0.78, -0.06))
    belly = bezier((-0.78, 0.06), (-0.4, 0.62 * deep), (0.5, 0.82 * deep), (1.0, 0.0))
    body = np.concatenate([back, belly])
    pen.shape(body, coat.body)
    pen.inside(body, [ellipse(0.1, 0.5, 0.85, 0.3)], light(coat.body, 0.5))
    pen.inside(body, make_marks(coat.kind, (-0.75, -0.5, 0.5, 0.5), rng, 1.1), coat.mark)
    pen.stroke(bezier((0.45, -0.3), (0.32, 0.0), (0.45, 0.3)), 0.03, pen.ink, outline=False)
    pen.shape(bezier((0.25, 0.05), (-0.1, 0.1), (-0.12, 0.38 + beat), (0.22, 0.18)), fin)
    pen.eye(0.66, -0.12, 0.12)
    pen.stroke(bezier((0.97, 0.06), (0.88, 0.14), (0.82, 0.12)), 0.03, pen.ink, outline=False)


def loper(pen: Pen, coat: Coat, trait: str, rng: Rng) -> None:
    """Draw a four-legged runner; `trait` is bushtail, longear or antler."""
    gait = rng.uniform(-0.2, 0.2)
    wag = rng.uniform(-0.15, 0.15)
    for x, bend, near in ((-0.4, -gait, 0), (0.32, gait, 0), (-0.52, gait, 1), (0.44, -gait, 1)):
        leg = coat.body if near else dark(coat.body, 0.62)
        pen.stroke(bezier((x, 0.2), (x, 0.6), (x + bend, 0.92)), 0.14, leg)
        pen.stroke(np.array([(x + bend, 0.9), (x + bend + 0.06, 0.93)]), 0.14, dark(coat.body, 0.4))
    if trait == "bushtail":
        pen.shape(ellipse(-1.0, -0.28 + wag, 0.46, 0.2, 38), coat.body)
        pen.shape(ellipse(-1.22, -0.46 + wag, 0.2, 0.15, 38), light(coat.mark, 0.6))
    elif trait == "longear":
        pen.dot(-0.76, -0.14, 0.17, light(coat.body, 0.65), outline=True)
    else:
        pen.stroke(bezier((-0.62, -0.1), (-0.9, -0.1), (-0.86, 0.3 + wag)), 0.07, coat.body)
    body = ellipse(-0.1, 0.04, 0.68, 0.36 * rng.uniform(0.92, 1.1), -4)
    pen.shape(body, coat.body)
    pen.inside(body, [ellipse(-0.05, 0.36, 0.6, 0.17)], light(coat.body, 0.5))
    pen.inside(body, make_marks(coat.kind, (-0.75, -0.35, 0.45, 0.3), rng, 1.2), coat.mark)
    neck = np.array([(0.3, -0.15), (0.62, -0.5), (0.86, -0.3), (0.52, 0.15)])
    pen.shape(neck, coat.body, outline=False)
    tilt = rng.uniform(-0.06, 0.06)
    if trait == "longear":
        for x, lean in ((0.62, -0.3), (0.76, -0.12)):
            pen.shape(ellipse(x + lean / 2, -0.98, 0.1, 0.36, 90 * lean - 4), coat.body)
    elif trait == "antler":
        horn = (226, 206, 170)
        for lean in (-0.28, 0.18):
            x = 0.7 + lean / 3
            branch = bezier((x, -0.66), (x + lean, -0.85), (x + lean, -1.22))
            pen.stroke(branch, 0.055, horn)
            pen.stroke(np.array([branch[6], branch[6] + (0.2, -0.12)]), 0.05, horn)
    else:
        for x in (0.56, 0.84):
            ear = np.array([(x - 0.12, -0.62), (x - 0.03, -1.0), (x + 0.14, -0.64)])
            pen.shape(ear, dark(coat.body, 0.8))
    pen.shape(ellipse(0.76, -0.48 + tilt, 0.33, 0.27, 10), coat.body)
    pen.shape(ellipse(1.02, -0.4 + tilt, 0.17, 0.13, 12), light(coat.body, 0.55))
    pen.dot(1.16, -0.42 + tilt, 0.065, (35, 25, 30))
    pen.eye(0.8, -0.56 + tilt, 0.09)
