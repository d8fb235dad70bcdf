"""Values with their source: what a person wrote, where, and how it reads.

A `Tree` is a nested dict whose leaves are `Given`. A `Level` is one tree at its source's rank;
sources of a higher rank win.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias, Union


class Rank(IntEnum):
    """The one precedence."""

    RECIPE = 1
    ENVIRONMENT = 2
    SET = 3
    FLAGS = 4


@dataclass(frozen=True)
class Given:
    """One value as it was given.

    Attributes:
        value: as read.
        source: what to name in an error ("--epochs", "recipe my.toml").
        key: the key within the source, where the source has several.
        raw: the text that `value` was read from; it may have been meant as plain text.
    """

    value: Any
    source: str = ""
    key: str = ""
    raw: str | None = None

    @property
    def label(self) -> str:
        return f"{self.source}: {self.key}" if self.key else self.source


Tree: TypeAlias = dict[str, Union["Given", "Tree"]]


@dataclass(frozen=True)
class Level:
    rank: Rank
    tree: Tree


def literal(text: str) -> Any:
    """`text` as a TOML value if it is one (or a number spelt `.5`, `1.`, `+3`), else as it is."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (tomllib.TOMLDecodeError, KeyError):
        pass
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text


def read_text(text: str, source: str) -> Given:
    """What was typed in a shell."""
    return Given(literal(text), source, raw=text)


def second_reading(given: Given, problem: str) -> Given | None:
    """Another way to read a text whose first reading did not fit: as text, or as yes or no."""
    if given.raw is None:
        return None
    if problem.startswith("must be true or false"):
        word = given.raw.lower()
        if word in ("1", "yes", "on", "true"):
            return Given(True, given.source, given.key)
        if word in ("0", "no", "off", "false"):
            return Given(False, given.source, given.key)
    if isinstance(given.value, str):
        return None
    return Given(given.raw, given.source, given.key)


def tree_of(values: Mapping[str, Any], source: str = "", prefix: str = "") -> Tree:
    """A mapping with every leaf marked by its source. Empty tables stay as leaves."""
    tree: Tree = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            tree[name] = tree_of(value, source, f"{key}.")
        else:
            tree[name] = Given(value, source, key if source else "")
    return tree


def nest(path: Iterable[str], leaf: Given) -> Tree:
    """`{a: {b: leaf}}` of path (a, b)."""
    first, *rest = path
    return {first: nest(rest, leaf) if rest else leaf}


def merge(low: Tree, high: Tree) -> Tree:
    """Tables key by key, everything else replaced."""
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def plain(tree: Tree) -> dict[str, Any]:
    """The values alone."""
    return {k: plain(v) if isinstance(v, dict) else v.value for k, v in tree.items()}


def find(tree: Tree | Given, path: tuple[str, ...]) -> Given | None:
    """The leaf at `path`, above it, or the first one below it."""
    if isinstance(tree, Given):
        return tree
    if path:
        return find(tree[path[0]], path[1:]) if path[0] in tree else None
    return next((leaf for sub in tree.values() if (leaf := find(sub, ()))), None)


def replace(tree: Tree, path: tuple[str, ...], leaf: Given) -> Tree:
    """A copy of `tree` with the leaf at (or above) `path` replaced."""
    below = tree[path[0]]
    changed = replace(below, path[1:], leaf) if isinstance(below, dict) and path[1:] else leaf
    return {**tree, path[0]: changed}
