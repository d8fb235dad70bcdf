"""The command `gta data check`, which checks a dataset before a run uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.lazy import group
from gtacli.cli.options import Quiet, Verbose
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.data.base import LeftOut
    from gtacli.data.check import DataCheck

MOST_LINES = 10
COLUMNS = ("images", "published", "classes", "fewest", "most", "labels", "unlabeled")
app = group("data")


@app.command()
def check(
    name: Annotated[
        str,
        typer.Argument(help="pets, cub, folder, csv, torch/cifar10, …; or a data spec"),
    ],
    root: Annotated[str | None, typer.Argument(help="the dataset's folder or file")] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="image=NAME,label=NAME",
            help="columns of a table, by name or number: image, label, split, mask",
            show_default="found by their usual names",
        ),
    ] = None,
    multi_label: Annotated[
        bool,
        typer.Option("--multi-label", help="a table whose images have any number of labels"),
    ] = False,
    unlabeled: Annotated[
        bool,
        typer.Option(
            "--unlabeled", help="images without labels are well, as for gta pretrain and discover"
        ),
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="do not decode the images")] = False,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Check a dataset for missing, unreadable and duplicate images.

    The dataset is read as with --data. The report compares the number of images with the published
    one and lists images that are in several splits. Exit status 1 if there is a problem.
    """
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.data.check import check_dataset
    from gtacli.data.spec import read_dataset
    from gtacli.data.unlabeled import read_images

    spec = name if root is None else _spec(name, root)
    if columns is not None:
        spec = f"{spec}?{columns}"
    if unlabeled and multi_label:
        raise UsageError("is for images with labels", option="multi_label")
    dataset = read_images(spec, every_split=True) if unlabeled else read_dataset(spec, multi_label)
    total = sum(map(len, dataset.splits.values()))
    with console.progress("reading", total) as advance:
        report: DataCheck = {"data": spec, **check_dataset(dataset, quick, advance)}
    if json:
        console.emit(report)
    else:
        _show(report, dataset.left_out)
    return 0 if report["ok"] else 1


def _spec(name: str, root: str) -> str:
    """Return the data spec of NAME and ROOT."""
    from gtacli.data.base import DatasetFamily
    from gtacli.registry import DATASETS

    family = name in DATASETS.names() and issubclass(DATASETS.load(name), DatasetFamily)
    return f"{name}/{root}" if family else f"{name}:{root}"


def _show(report: DataCheck, left_out: Sequence[LeftOut]) -> None:
    title = f" ({report['published']})" if report["published"] else ""
    classes = f"{report['classes']} classes" if report["classes"] else "without labels"
    console.say(f"{report['name']}{title}: {report['images']} images, {classes}")
    rows: dict[str, dict[str, Any]] = {split: {**row} for split, row in report["parts"].items()}
    shown = COLUMNS if report["classes"] else COLUMNS[:1]
    columns = [c for c in shown if any(row.get(c) is not None for row in rows.values())]
    table = [[split, *(row.get(c) for c in columns)] for split, row in rows.items()]
    console.table(["split", *columns], table)
    for kind in ("missing", "unreadable"):
        _list([row["error"] for row in report[kind]])
    same = [
        " = ".join(f"{d['part']}: {d['image']}" for d in group) for group in report["duplicates"]
    ]
    _list([f"the same image: {line}" for line in same])
    for line in report["wrong"]:
        console.say(f"wrong: {line}")
    said = [f"left out: {one}" for one in left_out if not one.wrong]
    if report["unseen"]:
        named = ", ".join(f"'{name}'" for name in report["unseen"][:MOST_LINES])
        said.append(f"classes without training images, left out where one learns: {named}")
    for line in said:
        console.say(line)
    if report["ok"]:
        console.say("what is read is well" if said else "all is well")


def _list(lines: list[str]) -> None:
    for line in lines[:MOST_LINES]:
        console.say(line)
    if len(lines) > MOST_LINES:
        console.say(f"… and {len(lines) - MOST_LINES} more (--json lists all)")
