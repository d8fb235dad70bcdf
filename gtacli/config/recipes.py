"""Recipes: TOML files with a command's options; shipped ones are found by name.

The first line of each is the command that runs it: `# gta finetune --recipe NAME ...`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtacli.config.base import did_you_mean
from gtacli.errors import UsageError
from gtacli.runtime.regular import read_regular_text

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Recipe:
    """A recipe file.

    Attributes:
        name: its name as the user gives it.
        path: the file.
    """

    name: str
    path: Path

    @property
    def label(self) -> str:
        """The name for messages."""
        return f"recipe {self.name}"

    @property
    def text(self) -> str:
        try:
            return read_regular_text(self.path)
        except FileNotFoundError:
            raise UsageError("there is no such file", source=self.label) from None
        except OSError as error:
            raise UsageError(f"cannot be read ({error})", source=self.label) from None

    @property
    def launch(self) -> str:
        """The command in its first line."""
        return self.text.split("\n", 1)[0].removeprefix("#").strip()

    def values(self, command: str) -> dict[str, Any]:
        """Return its settings. Raises UsageError for a recipe of another command."""
        try:
            values = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"is not TOML: {error}", source=self.label) from None
        named = values.pop("command", command)
        if not isinstance(named, str):
            raise UsageError(f"command must be text, got {named!r}", source=self.label)
        if named != command:
            text = f"is for `gta {named}`, not for `gta {command}`"
            raise UsageError(text, source=self.label)
        return values


def folder() -> Path:
    """Return the folder of the shipped recipes: in the wheel, or beside the package."""
    inside = _PACKAGE / "_recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def shipped() -> dict[str, Recipe]:
    """Return the shipped recipes by name."""
    return {p.stem: Recipe(p.stem, p) for p in sorted(folder().glob("*.toml"))}


def find(spec: str) -> Recipe:
    """Return a shipped recipe by its name, or the recipe of a file."""
    path = Path(spec)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return Recipe(spec, path)
    known = shipped()
    if spec not in known:
        raise UsageError(
            f"unknown recipe '{spec}'{did_you_mean(spec, known) or ';'} known: {', '.join(known)} "
            "(a file's name ends in .toml)"
        )
    return known[spec]
