"""`gta recipes list|show|copy`: the shipped recipes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gtacli.cli import console
from gtacli.cli.lazy import group

app = group("Ready-made options for a command.")
Name = Annotated[str, typer.Argument(help="a shipped recipe, or a .toml file")]


@app.command("list")
def list_recipes(
    json: Annotated[bool, typer.Option("--json", help="JSON Lines")] = False,
) -> int:
    """List the shipped recipes and the command that runs each."""
    from gtacli.config.recipes import shipped

    rows = [{"recipe": r.name, "run": r.launch, "path": str(r.path)} for r in shipped().values()]
    if json:
        for row in rows:
            console.emit(row)
    else:
        console.table(("recipe", "run"), [(row["recipe"], row["run"]) for row in rows])
    return 0


@app.command()
def show(name: Name) -> int:
    """Print a recipe."""
    from gtacli.config.recipes import find

    sys.stdout.write(find(name).text)
    return 0


@app.command()
def copy(
    name: Name,
    to: Annotated[Path | None, typer.Argument(help="a new file, or a folder")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file")] = False,
) -> int:
    """Copy a recipe to a file of your own, to change it."""
    from gtacli.config.recipes import find
    from gtacli.errors import UsageError

    recipe = find(name)
    target = Path(recipe.path.name) if to is None else to
    if target.is_dir():
        target = target / recipe.path.name
    try:
        with target.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(recipe.text)
    except FileExistsError:
        raise UsageError(f"{target} exists; --overwrite replaces it") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from None
    console.say(str(target))
    return 0
