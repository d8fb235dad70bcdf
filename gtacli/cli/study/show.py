"""The views of a study: `gta study status`, `table`, `plot`, `compare`, and `clean`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtacli.cli import console
from gtacli.cli.options import Json, Quiet, Verbose
from gtacli.cli.study.arguments import Columns, Folder, Format, Metric

if TYPE_CHECKING:
    from gtacli.study.results import CellStatus, StudyTable
    from gtacli.study.states import StudyProgress


def status(
    folder: Folder, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """Print the state of every cell, also while the study runs."""
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.study.folder import StudyFolder
    from gtacli.study.status import statuses

    rows: list[CellStatus] = statuses(StudyFolder.existing(folder))
    if json:
        for row in rows:
            console.emit(row)
        return
    shown = [(r["cell"], r["state"], r["seconds"], r["reason"]) for r in rows]
    console.table(("cell", "state", "seconds", ""), shown)
    counts = {state: sum(r["state"] == state for r in rows) for state in _in_order(rows)}
    console.say(", ".join(f"{number} {state}" for state, number in counts.items()))


def _in_order(rows: list[CellStatus]) -> list[str]:
    return list(dict.fromkeys(row["state"] for row in rows))


def table(
    folder: Folder,
    format: Annotated[Format, typer.Option(help="form of the table")] = "text",
    metric: Metric = None,
    rows: Annotated[
        str, typer.Option(help="what makes the rows: method, or a key of the grid", metavar="KEY")
    ] = "method",
    columns: Columns = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="row that the others are tested against [default: the first]",
            metavar="METHOD",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Print the table of what is finished: mean and standard deviation over the seeds, and tests.

    Columns are a key of the grid, other keys make rows of their own. A paired t-test over the seeds
    compares each row with --against; only a row that is better than every other one with p < 0.05
    is marked as the best.
    """
    console.setup(quiet=quiet, verbose=verbose)
    form: Format = "json" if json else format
    print_table(_progress(folder), form, metric, columns, against, rows)


def _progress(folder: Path) -> StudyProgress:
    from gtacli.study.folder import StudyFolder
    from gtacli.study.states import StudyProgress

    return StudyProgress(StudyFolder.existing(folder))


def print_table(
    progress: StudyProgress,
    form: Format,
    metric: str | None = None,
    columns: str | None = None,
    against: str | None = None,
    rows: str = "method",
) -> None:
    """Print the table of what is finished, in a form."""
    from gtacli.study import formats
    from gtacli.study.table import make_table

    found: StudyTable = make_table(progress, metric, columns, against, rows)
    if form == "json":
        console.emit(found)
    elif form == "text":
        console.table(formats.header(found), formats.rows(found))
        for note in formats.notes(found):
            console.say(note)
    else:
        write = {
            "markdown": formats.to_markdown,
            "latex": formats.to_latex,
            "csv": formats.to_csv,
        }[form]
        console.write(write(found))


def plot(
    folder: Folder,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="FILE.png, .svg or .pdf", metavar="FILE", show_default=False
        ),
    ],
    metric: Metric = None,
    columns: Columns = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw a metric against a key of the grid, a line with a band for each method."""
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.study.plot import plot as draw
    from gtacli.study.table import make_table

    draw(make_table(_progress(folder), metric, columns), out)
    console.emit({"plot": str(out)}) if json else console.say(str(out))


def compare(
    folder: Folder,
    a: Annotated[str, typer.Argument(help="a row", metavar="A", show_default=False)],
    b: Annotated[str, typer.Argument(help="another row", metavar="B", show_default=False)],
    metric: Metric = None,
    columns: Columns = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare two rows seed by seed: difference, its 95 % confidence interval, paired t-test."""
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.study.metrics import is_fraction
    from gtacli.study.table import compare as run_comparison
    from gtacli.study.table import layout_of

    progress = _progress(folder)
    lines = run_comparison(progress, a, b, metric, columns)
    if json:
        for line in lines:
            console.emit(line)
        return
    layout = layout_of(progress, metric, columns)
    scale = 100 if is_fraction(layout.key) else 1
    number = lambda value: None if value is None else f"{scale * value:.2f}"  # noqa: E731
    console.table(
        (layout.columns or "", a, b, "difference", "low", "high", "p", "n"),
        [
            (
                *(line["column"], number(line["a"]), number(line["b"]), number(line["difference"])),
                *(number(line["low"]), number(line["high"])),
                *(None if line["p"] is None else f"{line['p']:.3g}", line["n"]),
            )
            for line in lines
        ],
    )


def clean(
    folder: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="remove nothing")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove cells that the study no longer has, that no longer fit it, or that have failed.

    Finished cells keep their weights, those that only choose values keep their result.
    """
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.study.clean import clean as remove
    from gtacli.study.folder import StudyFolder

    result = remove(StudyFolder.existing(folder), dry_run)
    if json:
        console.emit(result)
        return
    for name in result["removed"]:
        console.say(name)
    what = "would be removed" if dry_run else "removed"
    console.say(f"{len(result['removed'])} cells, {result['bytes'] / 1e6:,.0f} MB {what}")
