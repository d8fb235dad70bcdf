"""`gta recipes list|show|copy`: the shipped recipes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from gtacli.cli import console
from gtacli.cli.completion import completer, recipe_names
from gtacli.cli.lazy import group
from gtacli.config.recipes import find, shipped
from gtacli.errors import UsageError
from gtacli.runtime.results import Doc

app = group("recipes")
Name = Annotated[
    str,
    typer.Argument(
        help="a shipped recipe, or a .toml file", autocompletion=completer(recipe_names)
    ),
]


class RecipeRow(TypedDict):
    """A shipped recipe by `gta recipes list`."""

    recipe: Annotated[str, Doc("name of the recipe")]
    run: Annotated[str, Doc("command that runs it")]
    path: Annotated[str, Doc("its file")]


@app.command("list")
def list_recipes(
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines")] = False,
) -> int:
    """List the shipped recipes and the command that runs each of them."""
    rows: list[RecipeRow] = [
        {"recipe": r.name, "run": r.launch, "path": str(r.path)} for r in shipped().values()
    ]
    if json:
        for row in rows:
            console.emit(row)
    else:
        console.table(("recipe", "run"), [(row["recipe"], row["run"]) for row in rows])
    return 0


@app.command()
def show(name: Name) -> int:
    """Print a recipe."""
    sys.stdout.write(find(name).text)
    return 0


@app.command()
def copy(
    name: Name,
    to: Annotated[Path | None, typer.Argument(help="a new file, or a folder")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file")] = False,
) -> int:
    """Copy a recipe into a file of your own, to change it."""
    recipe = find(name)
    target = Path(recipe.path.name) if to is None else to
    if os.path.isdir(target):
        target = target / recipe.path.name
    try:
        with target.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(recipe.text)
    except FileExistsError:
        raise UsageError(f"{target} exists; `overwrite` replaces it") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from None
    console.say(str(target))
    return 0
