"""Write the skeleton of a plug-in: installable, typed and tested, a working part to be changed."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template

from gtacli.errors import GtaError, UsageError
from gtacli.registry import GROUPS, OPTIONS_GROUP, Registry
from gtacli.runtime.atomic import replace_atomic
from gtacli.runtime.versions import api_bounds

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40


@dataclass(frozen=True)
class Kind:
    """A kind of part that a skeleton can be of.

    Attributes:
        group: its entry-point group.
        noun: in messages and docs.
        has_options: whether a class of options belongs to it.
    """

    group: str
    noun: str
    has_options: bool = True


KINDS = {
    "regularizer": Kind("gta.regularizers", "regularizer"),
    "optimizer": Kind("gta.optimizers", "optimizer"),
    "logger": Kind("gta.loggers", "logger"),
    "discovery": Kind("gta.discovery", "discovery back-end"),
    "map": Kind("gta.maps", "kind of maps"),
    "model": Kind("gta.models", "model", False),
    "dataset": Kind("gta.datasets", "dataset reader", False),
    "executor": Kind("gta.executors", "executor"),
    "exporter": Kind("gta.exporters", "exporter", False),
}


def write_skeleton(name: str, kind: str, folder: Path | None = None) -> list[Path]:
    """Write a plug-in with one part and return its files.

    Args:
        name: of the part; with `gta-` before it, of the distribution.
        kind: one of `KINDS`.
        folder: new or empty; default: the distribution's name.

    Raises UsageError for a name or kind that cannot be, and for a folder that is not empty.
    """
    chosen = _require_kind(kind)
    name = name.removeprefix("gta-")
    _require_name(name, chosen)
    folder = Path(f"gta-{name}") if folder is None else folder
    _require_empty(folder)
    package = f"gta_{name.replace('-', '_')}"
    words = _words(name, package, kind, chosen)
    words["usage"] = _fill(f"{kind}/usage.txt", words).strip()
    places = {
        "pyproject.toml": "common/pyproject.toml.txt",
        "README.md": "common/README.md.txt",
        f"src/{package}/__init__.py": "common/init.py.txt",
        f"src/{package}/{kind}.py": f"{kind}/part.py.txt",
        f"tests/test_{package.removeprefix('gta_')}.py": f"{kind}/test.py.txt",
    }
    if chosen.has_options:
        places[f"src/{package}/options.py"] = f"{kind}/options.py.txt"
    contents = {place: _fill(template, words) for place, template in places.items()}
    contents[f"src/{package}/py.typed"] = ""
    try:
        for place, text in contents.items():
            replace_atomic(folder / place, partial(_write, text))
    except OSError as error:
        raise GtaError(f"{folder} cannot be written: {error.strerror}", option="out") from error
    return [folder / place for place in sorted(contents)]


def _write(text: str, draft: Path) -> None:
    draft.write_bytes(text.encode())  # the same line ends everywhere


def _words(name: str, package: str, kind: str, chosen: Kind) -> dict[str, str]:
    """Return the values of the templates' placeholders."""
    cls = "".join(word[:1].upper() + word[1:] for word in name.split("-"))
    part = f"{chosen.group.partition('.')[2]}.{name}"
    entry = f'\n[project.entry-points."{OPTIONS_GROUP}"]  # read for the help without torch\n'
    entry += f'"{part}" = "{package}.options:{cls}Options"\n'
    return {
        "name": name,
        "distribution": f"gta-{name}",
        "package": package,
        "kind": kind,
        "noun": chosen.noun,
        "group": chosen.group,
        "Class": cls,
        "bounds": api_bounds(),
        "options_entry": entry if chosen.has_options else "",
    }


def _fill(template: str, words: dict[str, str]) -> str:
    text = files("gtacli.testing").joinpath("templates", template).read_text(encoding="utf-8")
    return Template(text).substitute(words)


def _require_kind(kind: str) -> Kind:
    if kind not in KINDS:
        raise UsageError(f"must be one of {', '.join(KINDS)}, got '{kind}'", option="kind")
    return KINDS[kind]


def _registry(kind: Kind) -> Registry[object]:
    return next(registry for registry in GROUPS if registry.group == kind.group)


def _require_name(name: str, kind: Kind) -> None:
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        raise UsageError(
            f"'{name[:60]}' is no name of a part: take lower-case letters, digits and single "
            f"hyphens, beginning with a letter, at most {LONGEST} characters"
        )
    registry = _registry(kind)
    if name in registry.also or (name in registry.names() and registry.origin(name).builtin):
        raise UsageError(f"gta has a {kind.noun} '{name}' of its own; take another name")
    if keyword.iskeyword(name.capitalize()):
        raise UsageError(f"'{name}' would be a word of Python; take another name")


def _require_empty(folder: Path) -> None:
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty; name a new folder", option="out")
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; name a new folder", option="out")
    except OSError as error:
        text = f"{str(folder)[:200]} cannot be a folder: {error.strerror}"
        raise UsageError(text, option="out") from error
