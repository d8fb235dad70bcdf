"""The order of classes in classifiers that do not name them.

torchvision and this program number the folders of a dataset as their names sort, timm's training in
the natural order: `class2` before `class10`, and `apple` before `Banana`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def other_order(classes: Sequence[str]) -> str:
    """Return a clause on classes that timm's training would number differently, "" without any."""
    natural = sorted(classes, key=_natural)
    differing = next(
        (pair for pair in zip(natural, classes, strict=True) if len({*pair}) > 1), None
    )
    if differing is None:
        return ""
    number = natural.index(differing[0])
    return (
        f"; if it was trained by timm's own scripts this is wrong: they number {differing[0]!r} as "
        f"class {number}, where this dataset has {differing[1]!r}"
    )


def _natural(name: str) -> list[int | str]:
    """Return timm's key of a class's name: its numbers count as numbers, case does not count."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]
