"""`gta study sheet`: the same images by the models of a study's rows, side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from gtacli.cli import console
from gtacli.cli.options import Json, Quiet, Verbose
from gtacli.cli.study.arguments import Folder
from gtacli.errors import UsageError


def sheet(
    folder: Folder,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="files, folders, patterns, or - for paths on stdin [default: test images]",
            metavar="IMAGES",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="FILE.png, .jpg, .svg or .pdf [default: sheet.png in the study's folder]",
            metavar="FILE",
            show_default=False,
        ),
    ] = Path(),
    of: Annotated[
        Literal["attention", "objects"],
        typer.Option(help="attention maps, or the objects that the study's segment finds"),
    ] = "attention",
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="place in the grid, such as seed=1; repeatable [default: the first finished]",
            metavar="KEY=VALUE",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="show this row; repeatable [default: all]", show_default=False),
    ] = None,
    count: Annotated[int, typer.Option(help="number of images at most", min=1, max=50)] = 6,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw what the models of all rows attend to, or the objects that they find.

    A row per image, a column per method; the model that they all started from comes first.
    """
    console.setup(quiet=quiet, verbose=verbose)
    place = dict(_key_and_value(text) for text in at or [])
    from itertools import islice

    from gtacli.data.inputs import iter_images
    from gtacli.rendering.files import check_picture_suffix
    from gtacli.runtime.atomic import check_writable
    from gtacli.runtime.devices import choose_compute
    from gtacli.study.folder import StudyFolder
    from gtacli.study.sheet import draw_attention, draw_objects, images_of, models_at
    from gtacli.study.states import StudyProgress

    progress = StudyProgress(StudyFolder.existing(folder))
    file = folder / "sheet.png" if out == Path() else out
    check_picture_suffix(file, "out")
    check_writable(file)
    models = models_at(progress, place, method or ())
    if images:
        shown = list(islice(iter_images(images, sys.stdin.buffer), count))
    else:
        shown = images_of(progress, models, of == "objects", count)
    compute = choose_compute("auto", "auto").frozen
    if of == "objects":
        result = draw_objects(progress, models, shown, compute, file)
    else:
        result = draw_attention(models, shown, compute, file)
    console.emit(result) if json else console.say(result["sheet"])


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise UsageError(f"must be KEY=VALUE, got '{text}'", option="at")
    return key.strip(), value.strip()
