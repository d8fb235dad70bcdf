"""`gta plugins list|check`: the registered parts and their state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import typer

from gtacli.cli import console
from gtacli.cli.lazy import group
from gtacli.registry import GROUPS, Origin
from gtacli.runtime.results import Doc

app = group("plugins")
Json = Annotated[bool, typer.Option("--json", help="print JSON Lines")]
COLUMNS = ("kind", "name", "distribution", "version")


class PartRow(TypedDict):
    """A registered part by `gta plugins list`."""

    kind: Annotated[str, Doc("entry-point group, such as gta.regularizers")]
    name: Annotated[str, Doc("name of the part")]
    distribution: Annotated[str, Doc("distribution that offers it")]
    version: Annotated[str, Doc("version of the distribution")]
    value: Annotated[str, Doc("module:attribute of its class")]
    builtin: Annotated[bool, Doc("whether it belongs to gtacli itself")]


class CheckedPartRow(PartRow):
    """A registered part by `gta plugins check`."""

    error: Annotated[str | None, Doc("the reason why it cannot be used; null: it loads")]


@app.command("list")
def list_parts(json: Json = False) -> int:
    """List every registered part with its distribution, without importing it.

    The word none for a regularizer or a guide is no part: it stands for working without one.
    """
    _show([_row(r.group, r.origin(n)) for r in GROUPS for n in r.names()], "value", json)
    return 0


@app.command()
def check(json: Json = False) -> int:
    """Load every registered part; exit with status 1 if one cannot be used."""
    rows = check_all()
    _show(rows, "error", json)
    return 1 if any(row["error"] for row in rows) else 0


def check_all() -> list[CheckedPartRow]:
    """Load every registered part and return one row for each."""
    return [
        {**_row(registry.group, origin), "error": error}
        for registry in GROUPS
        for origin, error in registry.check()
    ]


def _row(kind: str, origin: Origin) -> PartRow:
    return {
        "kind": kind,
        "name": origin.name,
        "distribution": origin.distribution,
        "version": origin.version,
        "value": origin.value,
        "builtin": origin.builtin,
    }


def _show(rows: Sequence[Any], last: str, json: bool) -> None:
    """Print rows: as JSON, or as a table whose last column is `last`."""
    if json:
        for row in rows:
            console.emit(row)
        return
    cells = [(*(row[c] for c in COLUMNS), "ok" if row[last] is None else row[last]) for row in rows]
    console.table((*COLUMNS, "state" if last == "error" else last), cells)
