"""`gta plugins list|check|new`: the registered parts, their state, and skeletons of new ones."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer

from gtacli.cli import console
from gtacli.cli.lazy import group
from gtacli.registry import GROUPS, Origin
from gtacli.runtime.results import Doc

log = logging.getLogger(__name__)
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
    _show([_row(r.group, origin) for r in GROUPS for origin in r.origins()], "value", json)
    return 0


class PromiseRow(TypedDict):
    """A promise of a part by `gta plugins check DIST`."""

    kind: Annotated[str, Doc("entry-point group of the part")]
    name: Annotated[str, Doc("name of the part")]
    promise: Annotated[str, Doc("the checked promise, in words")]
    state: Annotated[str, Doc("kept, broken or not checked")]
    reason: Annotated[str | None, Doc("why it is broken or was not checked; null: it is kept")]


@app.command()
def check(
    distribution: Annotated[
        str | None,
        typer.Argument(
            metavar="DIST|PATH",
            help="run the conformance suite on the parts of a distribution, or of a project in a "
            "folder [default: only load every part]",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Load every registered part, or check the parts of one distribution; status 1 if one fails."""
    console.setup()
    if distribution is not None:
        return _check_promises(distribution, json)
    rows = check_all()
    _show(rows, "error", json)
    return 1 if any(row["error"] for row in rows) else 0


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="name of the part: lower-case letters, digits, -")],
    kind: Annotated[
        str,
        typer.Option(
            help="regularizer, optimizer, logger, discovery, map, model, dataset, executor or "
            "exporter",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="new or empty folder [default: gta-NAME]",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Write a plug-in to start from: installable, typed, tested, with one working part."""
    from gtacli.runtime.paths import user_path
    from gtacli.testing.skeleton import write_skeleton

    console.setup()
    written = write_skeleton(name, kind, None if out is None else user_path(out))
    for path in written:
        console.say(str(path))
    folder = out or Path(f"gta-{name.removeprefix('gta-')}")
    log.info("next: pip install -e %s, then gta plugins check %s", folder, folder)
    return 0


def _check_promises(distribution: str, json: bool) -> int:
    """Print each promise that is broken or not checked, then how many each part keeps."""
    from gtacli.testing.distribution import check_distribution

    counts: dict[tuple[str, str], Counter[str]] = {}
    for verdict in check_distribution(distribution):
        part = (verdict.kind, verdict.origin.name)
        row: PromiseRow = {
            "kind": verdict.kind,
            "name": verdict.origin.name,
            "promise": verdict.promise,
            "state": verdict.state,
            "reason": verdict.reason,
        }
        counts.setdefault(part, Counter())[verdict.state] += 1
        if json:
            console.emit(row)
        elif verdict.state != "kept":
            console.say(f"{part[1]}: {verdict.promise}: {verdict.state}: {verdict.reason}")
    if not json:
        states = ("kept", "broken", "not checked")
        cells = [(*part, *(count[state] for state in states)) for part, count in counts.items()]
        console.table(("kind", "name", *states), cells)
    return 1 if any(count["broken"] for count in counts.values()) else 0


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
