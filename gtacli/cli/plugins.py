"""`gta plugins list|check`: what is installed under which name, and whether it loads."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.lazy import group

app = group("Installed parts and whether they work.")
Json = Annotated[bool, typer.Option("--json", help="JSON Lines")]
COLUMNS = ("kind", "name", "distribution", "version", "value")


@app.command("list")
def list_parts(json: Json = False) -> int:
    """List every registered part with its distribution. Imports none of them."""
    from gtacli.registry import GROUPS

    rows = [_row(r.group, r.origin(name)) for r in GROUPS for name in r.names()]
    _show(rows, COLUMNS, json)
    return 0


@app.command()
def check(json: Json = False) -> int:
    """Load every registered part. Exit status 1 when one is broken."""
    rows = check_all()
    _show(rows, (*COLUMNS[:4], "error"), json)
    return 1 if any(row["error"] for row in rows) else 0


def check_all() -> list[dict[str, Any]]:
    """One row a part: the origin, and `error` (None: it loads)."""
    from gtacli.registry import GROUPS

    return [
        {**_row(registry.group, origin), "error": error}
        for registry in GROUPS
        for origin, error in registry.check()
    ]


def _row(kind: str, origin: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": origin.name,
        "distribution": origin.distribution,
        "version": origin.version,
        "value": origin.value,
        "builtin": origin.builtin,
    }


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...], json: bool) -> None:
    if json:
        for row in rows:
            console.emit(row)
        return
    words = [["ok" if c == "error" and row[c] is None else row[c] for c in columns] for row in rows]
    console.table([c if c != "error" else "state" for c in columns], words)
