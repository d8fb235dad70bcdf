"""Recipes: TOML files that hold a command's options; shipped ones are found by name.

The first line of each says the command that runs it: `# gta finetune --recipe NAME ...`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtacli.config.base import did_you_mean
from gtacli.errors import UsageError

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Recipe:
    """A recipe's text and where it lies."""

    name: str
    path: Path

    @property
    def text(self) -> str:
        try:
            return self.path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe {self.name}: cannot be read ({error})") from None

    @property
    def launch(self) -> str:
        """The command in its first line."""
        return self.text.split("\n", 1)[0].removeprefix("#").strip()

    def values(self, command: str) -> dict[str, Any]:
        """Its keys. A recipe that names another command is refused."""
        try:
            values = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"recipe {self.name}: is not TOML: {error}") from None
        meant = values.pop("command", command)
        if meant != command:
            raise UsageError(
                f"recipe {self.name}: is for `gta {meant}`, not for `gta {command}`"
                if isinstance(meant, str)
                else f"recipe {self.name}: command must be text, got {meant!r}"
            )
        return values


def folder() -> Path:
    """Where the shipped recipes lie: inside the wheel, or beside the package in a checkout."""
    inside = _PACKAGE / "_recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def shipped() -> dict[str, Recipe]:
    """The shipped recipes by name."""
    return {p.stem: Recipe(p.stem, p) for p in sorted(folder().glob("*.toml"))}


def find(spec: str) -> Recipe:
    """A shipped recipe by its name, or a file."""
    path = Path(spec)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if not path.is_file():
            raise UsageError(f"recipe {spec}: there is no such file")
        return Recipe(spec, path)
    known = shipped()
    if spec not in known:
        raise UsageError(
            f"unknown recipe '{spec}'{did_you_mean(spec, known) or ';'} known: {', '.join(known)} "
            "(a file's name ends in .toml)"
        )
    return known[spec]
