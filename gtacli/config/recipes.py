"""Recipes: TOML files with a command's options; shipped ones are found by name.

The first line of each is the command that runs it: `# gta finetune --recipe NAME ...`. The folder
of a run is a recipe, too: its run.json has the options of the run, and the values that the program
found where they were open.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtacli.config.base import did_you_mean
from gtacli.config.recorded import from_folder
from gtacli.errors import UsageError
from gtacli.runtime.regular import read_regular_text
from gtacli.runtime.run_files import RECORD_FILE
from gtacli.runtime.strict_json import read_json, reason_of
from gtacli.runtime.strict_toml import parse_toml

_PACKAGE = Path(__file__).resolve().parents[1]
_REPLACED = re.compile(r"(cub|cars|aircraft|dogs|pets)-(none|l2sp|bss|gta|gta-transmix)")
"""Names of former recipes, of which a dataset's own and the study fine-grained are left."""
_OF_THE_CALL = ("out", "overwrite", "resume", "allow_fetch")
"""Options that say where and how a run is written, not what it computes."""
_STUDY_TABLES = ("grid", "method", "then", "tuning", "fixed")
"""The tables by which a study is told from a recipe of one run."""


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
            values = parse_toml(self.text)
        except ValueError as error:
            raise UsageError(f"is not TOML: {error}", source=self.label) from None
        if is_study(values):
            text = f"is a study of many runs; `gta study run {self.name}` runs it"
            raise UsageError(text, source=self.label)
        named = values.pop("command", command)
        if not isinstance(named, str):
            raise UsageError(f"command must be text, got {named!r}", source=self.label)
        if named != command:
            text = f"is for `gta {named}`, not for `gta {command}`"
            raise UsageError(text, source=self.label)
        return values


@dataclass(frozen=True)
class RunRecipe(Recipe):
    """The record of a run, as a recipe that repeats the run."""

    @property
    def label(self) -> str:
        return str(self.path)

    def values(self, command: str) -> dict[str, Any]:
        """Return the options of the run. Raises UsageError for a run of another command."""
        try:
            record = read_json(self.path)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot be read ({reason_of(error)})", source=self.label) from None
        config = record.get("config") if isinstance(record, dict) else None
        if not isinstance(config, dict):
            raise UsageError("is not the record of a run", source=self.label)
        if record.get("command") != command:
            text = f"is of `gta {record.get('command')}`, not of `gta {command}`"
            raise UsageError(text, source=self.label)
        found = record.get("resolved")
        for key, value in found.items() if isinstance(found, dict) else ():
            if config.get(key, 0) in (None, "auto"):
                config[key] = value
        began = record.get("folder")
        return {
            key: from_folder(value, began)
            for key, value in config.items()
            if value is not None and key not in _OF_THE_CALL
        }


def is_study(values: Mapping[str, Any]) -> bool:
    """Return whether a recipe is a study; `method` may be an option of a command, a word."""
    return any(isinstance(values.get(name), dict | list) for name in _STUDY_TABLES)


def folder() -> Path:
    """Return the folder of the shipped recipes: in the wheel, or beside the package."""
    inside = _PACKAGE / "_recipes"
    return inside if os.path.isdir(inside) else _PACKAGE.parent / "recipes"


def shipped() -> dict[str, Recipe]:
    """Return the shipped recipes by name."""
    return {p.stem: Recipe(p.stem, p) for p in sorted(folder().glob("*.toml"))}


def find(spec: str) -> Recipe:
    """Return a shipped recipe by its name, or the recipe of a file, or of a run by its folder."""
    path = Path(spec)
    if spec not in shipped() and os.path.isfile(path / RECORD_FILE):
        return RunRecipe(spec, path / RECORD_FILE)
    if path.name == RECORD_FILE:
        return RunRecipe(spec, path)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return Recipe(spec, path)
    known = shipped()
    if former := _REPLACED.fullmatch(spec):
        data, method = former.groups()
        if method == "gta":
            return known[data]
        raise UsageError(
            f"recipe '{spec}' is now a row of the study fine-grained; one such run is recipe "
            f"{data} with another `regularizer` or `mix` (`gta recipes show {data}`)"
        )
    if spec not in known:
        raise UsageError(
            f"unknown recipe '{spec}'{did_you_mean(spec, known) or ';'} known: {', '.join(known)} "
            "(a file's name ends in .toml, a run's folder has run.json)"
        )
    return known[spec]
