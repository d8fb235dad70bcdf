"""The base of the kinds: a clean input, and how the program reads it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

FIXTURES = Path(os.environ.get("FAULTS_FIXTURES", "fixtures"))
"""Made by `fixtures.py`."""
RUN, PRERUN, MAPS = FIXTURES / "run", FIXTURES / "prerun", FIXTURES / "maps"
SMALL = FIXTURES / "small"


def pictures(count: int = 3, side: int = 96) -> list[Image.Image]:
    """Return some of the demo's drawings."""
    found = []
    for path in sorted((FIXTURES / "images").rglob("*.png"))[:count]:
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((side, side))
            found.append(small)
    return found


def main(argv: Sequence[object]) -> int:
    """Run a command in this process and return its exit status."""
    from gtacli.cli import main as gta

    return gta([str(a) for a in argv])


class Kind:
    """A kind of input.

    `run(None)` reads the clean input, `run(rng)` a changed one. It may raise a GtaError, return an
    exit status, or return a text, which says in which way the answer is wrong.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.setup()

    def setup(self) -> None: ...

    def run(self, rng: Random | None) -> Any: ...

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


class Evil:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, flag: str) -> None:
        self.flag = flag

    def __reduce__(self):
        return (os.mkdir, (self.flag,))
