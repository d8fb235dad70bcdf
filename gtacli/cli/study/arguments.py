"""Arguments and options of several commands of `gta study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Folder = Annotated[Path, typer.Argument(help="folder of gta study run", show_default=False)]
Metric = Annotated[
    str | None,
    typer.Option(
        help="test_top1, val_top1, seconds, ...; of a command that follows: probe-knn:top1 "
        "[default: the command's main one]",
        metavar="NAME",
        show_default=False,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        help="key of the grid [default: sampling_rate, or the first with several values]",
        metavar="KEY",
        show_default=False,
    ),
]
Format = Literal["text", "markdown", "latex", "csv", "json"]
