"""Settings with their sources, as nested tables.

A `Tree` is a nested dict whose leaves are `Setting` objects. A `Level` is the tree of one source
with its rank; sources of a higher rank win.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias, Union

from gtacli.errors import UsageError
from gtacli.runtime.strict_toml import parse_toml


class Rank(IntEnum):
    """The precedence of the sources."""

    RECIPE = 1
    ENVIRONMENT = 2
    SET = 3
    FLAGS = 4


@dataclass(frozen=True)
class Setting:
    """A value as one source gives it.

    Attributes:
        value: the value.
        source: where it is written ("recipe my.toml"); "" for an argument of the call.
        key: its key within the source; "" where the source names the key itself.
        typed: whether `value` is text from a shell, to be read by the type of its field.
    """

    value: Any
    source: str = ""
    key: str = ""
    typed: bool = False

    @property
    def label(self) -> str:
        """The place where the value is written, for the text of a message."""
        if not self.source:
            return f"`{self.key}`"
        return f"{self.source}: {self.key}" if self.key else self.source

    def error(self, text: str) -> UsageError:
        """Return an error about this setting."""
        return UsageError(text, option=self.key or None, source=self.source or None)


Tree: TypeAlias = dict[str, Union["Setting", "Tree"]]


@dataclass(frozen=True)
class Level:
    """The settings of one source, or of one of several sources of a rank."""

    rank: Rank
    tree: Tree


def literal(text: str) -> Any:
    """Return the TOML value, or the number (`.5`, `1.`, `+3`), that `text` is; else the text."""
    try:
        return parse_toml(f"value = {text}")["value"] if "\n" not in text else text
    except (ValueError, KeyError):
        pass
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text


def typed(text: str, source: str = "", key: str = "") -> Setting:
    """Return the setting of a text from a shell; a TOML string loses its quotes."""
    value = literal(text) if text[:1] in ("'", '"') else text
    return Setting(value if isinstance(value, str) else text, source, key, typed=True)


def tree_of(values: Mapping[str, Any], source: str = "", prefix: str = "") -> Tree:
    """Return a mapping with every leaf labeled by its source. Empty tables stay leaves."""
    tree: Tree = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            tree[name] = tree_of(value, source, f"{key}.")
        else:
            tree[name] = Setting(value, source, key)
    return tree


def nest(path: Iterable[str], leaf: Setting) -> Tree:
    """Return `{a: {b: leaf}}` for the path (a, b)."""
    first, *rest = path
    return {first: nest(rest, leaf) if rest else leaf}


def merge(low: Tree, high: Tree) -> Tree:
    """Merge two trees: tables key by key, everything else is replaced by the higher one."""
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def plain(tree: Tree) -> dict[str, Any]:
    """Return the values without their sources."""
    return {k: plain(v) if isinstance(v, dict) else v.value for k, v in tree.items()}


def leaves(tree: Tree | Setting) -> Iterable[Setting]:
    """Yield the settings of a tree, in order."""
    if isinstance(tree, Setting):
        yield tree
    else:
        for below in tree.values():
            yield from leaves(below)


def find(tree: Tree | Setting, path: tuple[str, ...]) -> Setting | None:
    """Return the setting at `path`, the one above it, or the first one below it."""
    for step in path:
        if isinstance(tree, Setting):
            break
        if step not in tree:
            return None
        tree = tree[step]
    return next(iter(leaves(tree)), None)
