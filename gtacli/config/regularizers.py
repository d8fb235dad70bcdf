"""Folding of everything that asks for regularizers into one form.

The form has an ordered table of active regularizers, name -> its own options, and `lam`, the
strength of the first one. Every other strength stands in its regularizer's own table.

A source asks by name ("gta", "bss:0.001", a list, "none") or by tables ([regularizer.gta]). A name
or a list sets the active regularizers. A table adds its name to those given by name; if none were,
the tables set them. Options from lower sources are kept for the names that end up active.

A `lam` in a source that also names regularizers belongs to the first one of that source, so that a
recipe's strength is not applied to another regularizer that a flag puts in its place. Alone in its
source it belongs to whichever comes first in the end. Between strengths of one regularizer the
higher source wins; within one source `lam` wins over the table.

The options of `gta` are accepted beside `lam` too (`layers=last`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

from gtacli.config.values import Level, Setting, Tree, leaves, literal, merge
from gtacli.errors import UsageError

DEFAULT = "gta"
KEY = "regularizer"


def fold(levels: Sequence[Level], flat: Collection[str]) -> Tree:
    """Fold all sources, lowest first, into one tree with the regularizers in their final form.

    Args:
        levels: the sources; several of one rank count as one source.
        flat: the keys that belong to `gta`.
    """
    rest: Tree = {}
    fold = _Fold()
    for _, group in groupby(levels, key=lambda level: level.rank):
        lam: Setting | None = None
        named = False
        for level in group:
            tree = dict(level.tree)
            asked = tree.pop(KEY, None)
            if asked is not None:
                fold.ask(asked)
                named = True
            fold.add_options(DEFAULT, {key: tree.pop(key) for key in list(tree) if key in flat})
            if "lam" in tree:
                lam = _number(tree.pop("lam"))
            rest = merge(rest, tree)
        if lam is not None:
            fold.strengths.append((fold.active[0] if named and fold.active else None, lam))
    return {**rest, **fold.result()}


class _Fold:
    """Regularizers as far as the sources were read.

    Attributes:
        active: the names, in order; None while no source has named any.
        options: the tables of all names, without their strengths.
        strengths: (name, strength), the later one wins; the name None stands for the first one.
    """

    def __init__(self) -> None:
        self.active: list[str] | None = None
        self.options: dict[str, Tree] = {}
        self.strengths: list[tuple[str | None, Setting]] = []

    def ask(self, asked: Setting | Tree) -> None:
        """Add the value of `regularizer` in one source."""
        if isinstance(asked, dict):
            self.active = self.active or []
            for name, table in asked.items():
                self._add_table(name, table)
            return
        self.active = []
        value = literal(asked.value) if asked.typed and asked.value[:1] == "[" else asked.value
        if value in ("none", ["none"], {}):
            return
        if isinstance(value, list | tuple) and "none" in value:
            raise asked.error("'none' stands for no regularizer; leave it out, or the others")
        for spec in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(spec, str) or not spec:
                raise asked.error(f"must be a regularizer's name, got {spec!r}")
            name, colon, strength = spec.partition(":")
            name = _registered(name, asked)
            if name in self.active:
                raise asked.error(f"'{name}' is given twice")
            self.active.append(name)
            if colon:
                lam = Setting(literal(strength), asked.source, asked.key)
                self.strengths.append((name, lam))

    def add_options(self, name: str, options: Tree) -> None:
        """Add options from a table, its strength too."""
        options = dict(options)
        if "lam" in options:
            self.strengths.append((name, _number(options.pop("lam"))))
        self.options[name] = merge(self.options.get(name, {}), options)

    def result(self) -> Tree:
        """Return `regularizer` and `lam`, as far as a source has given them."""
        active = [DEFAULT] if self.active is None else self.active
        first = active[0] if active else None
        tables: Tree = {}
        for name in active:
            table = dict(self.options.get(name, {}))
            lam = self._strength(name)
            tables[name] = table if lam is None or name == first else {**table, "lam": lam}
        result: Tree = {KEY: tables}
        if self.active is None and not tables[DEFAULT]:
            result = {}  # so that the key does not count as given
        # Without a regularizer the strength is kept only to be validated.
        lam = self._strength(first, None)
        return result if lam is None else {**result, "lam": lam}

    def _strength(self, *names: str | None) -> Setting | None:
        return next((lam for name, lam in reversed(self.strengths) if name in names), None)

    def _add_table(self, name: str, table: Setting | Tree) -> None:
        if isinstance(table, Setting) and table.value != {}:
            raise table.error(f"must be a table of options, got {table.value!r}")
        name = _registered(name, next(iter(leaves(table))))
        assert self.active is not None
        if name not in self.active:
            self.active.append(name)
        self.add_options(name, {} if isinstance(table, Setting) else table)


def _registered(name: str, asked: Setting) -> str:
    """Return the registered name; an environment variable cannot spell the dash of `l2-sp`."""
    from gtacli.registry import REGULARIZERS

    known = REGULARIZERS.names()
    dashed = name.replace("_", "-")
    if name not in known and dashed in known:
        return dashed
    try:
        return REGULARIZERS.origin(name).name
    except UsageError as error:
        if asked.source:
            error.source = asked.source
        else:
            error.option = asked.key or None
        raise


def _number(value: Setting | Tree) -> Setting:
    if isinstance(value, Setting):
        return value
    raise next(iter(leaves(value))).error("`lam` must be a number, got a table")
