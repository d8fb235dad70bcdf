"""The two worlds of creatures: species, numbers of images, and scenery by class."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gtacli.scenes import creatures, relatives
from gtacli.scenes.creatures import Coat
from gtacli.scenes.pen import Color, Pen
from gtacli.scenes.scenery import SCENERY

SIZE = 96

# Body and marks. Every genus occurs in every color, so that color alone is not the species.
PALETTE: tuple[tuple[Color, Color], ...] = (
    ((232, 92, 70), (70, 32, 48)),
    ((246, 186, 66), (120, 58, 36)),
    ((92, 176, 120), (28, 70, 72)),
    ((88, 150, 222), (34, 44, 104)),
    ((188, 122, 204), (78, 34, 98)),
    ((240, 236, 222), (74, 78, 92)),
    ((146, 104, 78), (242, 214, 164)),
    ((72, 84, 104), (248, 196, 92)),
)
_OWN_COLOR = 0.5  # probability of the species' usual colors


@dataclass(frozen=True)
class Species:
    """A class of creatures: its drawing function, distinctive trait, marks and usual palette."""

    name: str
    draw: Callable[[Pen, Coat, str, np.random.Generator], None]
    trait: str
    marks: str
    palette: int
    turn: float = 22
    """Maximum rotation in degrees; larger for creatures drawn from above."""

    def coat(self, rng: np.random.Generator) -> Coat:
        """Draw the coat of an individual."""
        own = rng.random() < _OWN_COLOR
        body, mark = PALETTE[self.palette if own else rng.integers(len(PALETTE))]
        return Coat(_jitter(body, rng), _jitter(mark, rng), self.marks)


@dataclass(frozen=True)
class World:
    """A dataset to draw.

    Attributes:
        counts: images of each species, by split.
        bound: training images out of ten (0 to 10) that show the species' own scenery; the others,
            and all test images, show any scenery.
    """

    name: str
    seed: int
    species: tuple[Species, ...]
    counts: dict[str, int]
    bound: int

    def scenery(self, split: str, label: int, index: int) -> str:
        """Return the scenery of an image; the fractions are exact, not random."""
        names = tuple(SCENERY)
        if split == "train" and index % 10 < self.bound:
            return names[label % len(names)]
        if split == "train" and self.bound:  # one of the eleven others
            return names[(label + 1 + index // 10 * 3 % 11) % len(names)]
        return names[(label + index * 5) % len(names)]  # 5 and 12 are coprime: all in turn


def _jitter(color: Color, rng: np.random.Generator) -> Color:
    r, g, b = (int(np.clip(c + rng.normal(0, 9), 0, 255)) for c in color)
    return r, g, b


_pip, _beetle, _fish, _loper = creatures.pip, creatures.beetle, creatures.fish, creatures.loper
DEMO = World(
    name="demo",
    seed=20240105,
    species=(
        Species("crested-pip", _pip, "crest", "bands", 0),
        Species("longtail-pip", _pip, "longtail", "spots", 3),
        Species("bigbeak-pip", _pip, "bigbeak", "plain", 2),
        Species("horned-beetle", _beetle, "horn", "plain", 4, turn=75),
        Species("feeler-beetle", _beetle, "feelers", "spots", 0, turn=75),
        Species("stag-beetle", _beetle, "jaws", "stripes", 2, turn=75),
        Species("sail-fish", _fish, "sail", "stripes", 3),
        Species("forktail-fish", _fish, "forktail", "bands", 1),
        Species("veil-fish", _fish, "veil", "spots", 4),
        Species("bushtail-loper", _loper, "bushtail", "plain", 6),
        Species("longear-loper", _loper, "longear", "spots", 5),
        Species("antler-loper", _loper, "antler", "bands", 1),
    ),
    counts={"train": 40, "test": 20},
    bound=9,
)

_snail, _butterfly = relatives.snail, relatives.butterfly
_turtle, _octopus = relatives.turtle, relatives.octopus
RELATIVES = (
    Species("spiral-snail", _snail, "spiral", "plain", 1),
    Species("cone-snail", _snail, "cone", "stripes", 6),
    Species("spiked-snail", _snail, "spiked", "spots", 4),
    Species("moon-butterfly", _butterfly, "round", "spots", 3, turn=75),
    Species("swallow-butterfly", _butterfly, "swallow", "stripes", 1, turn=75),
    Species("lace-butterfly", _butterfly, "scallop", "plain", 0, turn=75),
    Species("dome-turtle", _turtle, "dome", "spots", 2),
    Species("sea-turtle", _turtle, "flat", "bands", 3),
    Species("ridge-turtle", _turtle, "ridge", "stripes", 7),
    Species("ball-octopus", _octopus, "ball", "plain", 4),
    Species("tall-octopus", _octopus, "tall", "bands", 0),
    Species("finned-octopus", _octopus, "finned", "spots", 5),
)
"""The species of `demo-source`, each with its usual coat."""

COATS = ("plain", "spots", "bands", "stripes")
# Each species in each of four coats is a class of its own. Only the body shows the coat, and only
# the outline shows the species, so that the source model learns features of both.
DEMO_SOURCE = World(
    name="demo-source",
    seed=20240215,
    species=tuple(
        replace(species, name=f"{species.name}-{coat}", marks=coat)
        for species in RELATIVES
        for coat in COATS
    ),
    counts={"train": 150, "test": 12},
    bound=0,
)
