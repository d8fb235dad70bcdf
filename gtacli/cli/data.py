"""`gta data check`: whether a data set is whole and readable, before a run relies on it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.lazy import group
from gtacli.cli.options import Quiet, Verbose

SHOWN = 10
COLUMNS = ("images", "published", "classes", "fewest", "most")
app = group("Data sets: whether they are whole and readable.")


@app.command()
def check(
    name: Annotated[
        str, typer.Argument(help="pets, cub, folder, csv, torch/cifar10, ...; or a whole data spec")
    ],
    root: Annotated[str | None, typer.Argument(help="where it lies")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="do not decode the images")] = False,
    json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Read a data set as --data does: counts, missing and unreadable images, images that lie in
    two parts, and what was published. Exit status 1 when something is wrong with it."""
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.data.check import check as run
    from gtacli.data.spec import read_dataset

    spec = name if root is None else _spec(name, root)
    dataset = read_dataset(spec)
    total = sum(map(len, dataset.splits.values()))
    with console.progress("reading", total) as advance:
        report = {"data": spec, **run(dataset, quick, advance)}
    if json:
        console.emit(report)
    else:
        _show(report)
    return 0 if report["ok"] else 1


def _spec(name: str, root: str) -> str:
    """NAME and ROOT as `--data` takes them."""
    from gtacli.data.base import DatasetFamily
    from gtacli.registry import DATASETS

    family = name in DATASETS.names() and issubclass(DATASETS.load(name), DatasetFamily)
    return f"{name}/{root}" if family else f"{name}:{root}"


def _show(report: dict[str, Any]) -> None:
    title = f" ({report['published']})" if report["published"] else ""
    console.say(f"{report['name']}{title}: {report['images']} images, {report['classes']} classes")
    rows = [(part, *(row[c] for c in COLUMNS)) for part, row in report["parts"].items()]
    shown = [i for i, _ in enumerate(("part", *COLUMNS)) if any(row[i] is not None for row in rows)]
    console.table([("part", *COLUMNS)[i] for i in shown], [[row[i] for i in shown] for row in rows])
    for kind in ("missing", "unreadable"):
        _list([row["error"] for row in report[kind]])
    same = [
        " = ".join(f"{d['part']}: {d['image']}" for d in group) for group in report["duplicates"]
    ]
    _list([f"the same image: {line}" for line in same])
    for line in report["wrong"]:
        console.say(f"wrong: {line}")
    if report["ok"]:
        console.say("all is well")


def _list(lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        console.say(line)
    if len(lines) > SHOWN:
        console.say(f"… and {len(lines) - SHOWN} more (--json lists all)")
