"""From all the ways to ask for regularisers to one form: name -> its own options, in order.

Asked for by name ("gta", "bss:0.001", a list, "none") or by tables ([regularizer.gta]). A name or
a list sets the active ones; a table adds its names to those given by name, or, if none were, sets
them. Options of a lower source are kept for the names that end up active.

`lam` is the strength of the first regulariser. Written in a source that also says which
regularisers there are, it belongs to that source's first, so that a recipe's strength for one is
not applied to another that a flag puts in its place. The higher source wins between `lam` and the
first one's own table; within one source `lam` does.

The options of `gta` are accepted flat too (`--layers last`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

from gtacli.config.values import Given, Level, Tree, literal, merge
from gtacli.errors import UsageError

DEFAULT = "gta"
KEY = "regularizer"


def fold(levels: Sequence[Level], flat: Collection[str]) -> Tree:
    """All sources, lowest first, as one tree with `regularizer` in its final form.

    Args:
        levels: the sources; several of one rank count as one source.
        flat: the keys that belong to `gta`.
    """
    rest: Tree = {}
    regularizers = _Folded()
    for rank, group in groupby(levels, key=lambda level: level.rank):
        lam: Given | None = None
        named = False
        for level in group:
            tree = dict(level.tree)
            named |= regularizers.ask(tree.pop(KEY, None), rank)
            own: Tree = {key: tree.pop(key) for key in list(tree) if key in flat}
            if own:
                regularizers.give(DEFAULT, own, rank)
            strength = tree.pop("lam", None)
            if strength is not None:
                lam = _leaf(strength, "lam")
            rest = merge(rest, tree)
        if lam is not None:
            regularizers.strength(lam, rank, own=named)
    return {**rest, **regularizers.result()}


class _Folded:
    def __init__(self) -> None:
        self.active: list[str] | None = None
        self.by_name = False
        self.options: dict[str, Tree] = {}
        # Strengths by the rank they came from, a table's below a flat one's of the same rank.
        self.own_lam: dict[str, tuple[float, Given]] = {}
        self.free_lam: tuple[float, Given] | None = None

    def ask(self, asked: Given | Tree | None, rank: int) -> bool:
        """Takes one `regularizer` entry; whether it named any."""
        if asked is None:
            return False
        if isinstance(asked, dict):
            for name, table in asked.items():
                self._add_table(name, table, rank)
            return True
        if asked.value == {}:
            self.active, self.by_name = [], True
            return True
        names = asked.value if isinstance(asked.value, list | tuple) else [asked.value]
        self.active, self.by_name = [], True
        for spec in names:
            if not isinstance(spec, str) or not spec:
                raise UsageError(_at(asked, f"must be a regulariser's name, got {spec!r}"))
            if spec == "none" and len(names) == 1:
                break
            name, colon, strength = spec.partition(":")
            name = _known(name, asked)
            if name in self.active:
                raise UsageError(_at(asked, f"'{name}' is given twice"))
            self.active.append(name)
            if colon:
                leaf = Given(literal(strength), asked.source, asked.key, strength)
                self.own_lam[name] = (rank, leaf)
        return True

    def give(self, name: str, options: Tree, rank: int) -> None:
        options = dict(options)
        lam = options.pop("lam", None)
        if lam is not None:
            self.own_lam[name] = (rank, _leaf(lam, f"{KEY}.{name}.lam"))
        self.options[name] = merge(self.options.get(name, {}), options)

    def strength(self, lam: Given, rank: int, own: bool) -> None:
        above = rank + 0.5
        if not own:
            self.free_lam = (above, lam)
        elif self.active:
            self.own_lam[self.active[0]] = (above, lam)
        else:  # of no regulariser: kept to be checked
            self.free_lam = (above, lam)

    def result(self) -> Tree:
        active = [DEFAULT] if self.active is None else self.active
        tables: Tree = {}
        for name in active:
            tables[name] = dict(self.options.get(name, {}))
            if name in self.own_lam and name != active[0]:
                tables[name] = {**tables[name], "lam": self.own_lam[name][1]}  # type: ignore[dict-item]
        first = self.own_lam.get(active[0]) if active else None
        found = [lam for lam in (first, self.free_lam) if lam is not None]
        # Nothing asked: the field's default stands, and the key does not count as given.
        result: Tree = {} if self.active is None and not tables[DEFAULT] else {KEY: tables}
        if found:
            result["lam"] = max(found, key=lambda lam: lam[0])[1]
        return result

    def _add_table(self, name: str, table: Given | Tree, rank: int) -> None:
        if isinstance(table, Given) and table.value != {}:
            raise UsageError(_at(table, f"must be a table of options, got {table.value!r}"))
        leaf = table if isinstance(table, Given) else next(iter(_leaves(table)))
        name = _known(name, leaf)
        self.active = [] if self.active is None else self.active
        if name not in self.active:
            self.active.append(name)
        self.give(name, {} if isinstance(table, Given) else table, rank)


def _known(name: str, asked: Given) -> str:
    """The registered name; an environment's variable cannot spell the dash of `l2-sp`."""
    from gtacli.registry import REGULARIZERS

    try:
        return REGULARIZERS.origin(name).name
    except UsageError as error:
        dashed = name.replace("_", "-")
        if dashed in REGULARIZERS.names():
            return dashed
        raise UsageError(f"{asked.source}: {error}" if asked.source else str(error)) from None


def _at(given: Given, text: str) -> str:
    return f"{given.label}: {text}" if given.label else text


def _leaf(value: Given | Tree, key: str) -> Given:
    if isinstance(value, Given):
        return value
    leaf = next(iter(_leaves(value)))
    raise UsageError(f"{leaf.source}: {key} must be a number, got a table")


def _leaves(tree: Tree) -> list[Given]:
    found: list[Given] = []
    for value in tree.values():
        found.extend([value] if isinstance(value, Given) else _leaves(value))
    return found
