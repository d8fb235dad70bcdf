"""The top-level command `gta`; a command's module is imported when the command is used."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, cast

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

# name -> (module with the Typer object `app`, short help)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("gtacli.cli.demo", "Compare plain fine-tuning with GTA on a built-in dataset."),
    "finetune": ("gtacli.cli.finetune", "Fine-tune a pretrained ViT on labeled images."),
    "pretrain": ("gtacli.cli.pretrain", "Pre-train a ViT on images without labels."),
    "report": ("gtacli.cli.report", "Compare runs on one HTML page."),
    "calibrate": ("gtacli.cli.calibrate", "Make a run's probabilities honest."),
    "merge": ("gtacli.cli.merge", "Average the weights of runs, or of a run and its source."),
    "export": ("gtacli.cli.export", "Write a trained model for another program, checked."),
    "predict": ("gtacli.cli.predict", "Classify images with a fine-tuned model."),
    "segment": ("gtacli.cli.segment", "Find the objects in images: masks and boxes."),
    "attention-map": ("gtacli.cli.attention_map", "Draw the attention maps of models."),
    "attn-maps": ("gtacli.cli.attention_map", "Short name of attention-map."),
    "embed": ("gtacli.cli.embed", "Compute a vector for each image, in one file."),
    "discover": ("gtacli.cli.discover", "Compute the object maps of a dataset and cache them."),
    "maps": ("gtacli.cli.maps", "Inspect and verify cached object maps."),
    "probe": ("gtacli.cli.probe", "Evaluate a pre-trained model's features and attention."),
    "study": ("gtacli.cli.study", "Run a grid of methods, rates and seeds; print its table."),
    "data": ("gtacli.cli.data", "Check a dataset: missing, unreadable and duplicate images."),
    "models": ("gtacli.cli.models", "List the models that can be loaded by name."),
    "plugins": ("gtacli.cli.plugins", "List, check and write plug-ins; list built-in parts."),
    "recipes": ("gtacli.cli.recipes", "List, show and copy ready-made configurations."),
    "doctor": ("gtacli.cli.doctor", "Check versions, devices and plug-ins."),
}
ADDED = "gta.added"
"""The key, in the context of a call, of the values of parameters that were added for it."""
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class LazyGroup(TyperGroup):
    """A group that lists commands from a table and imports the module of the one that runs."""

    _loading = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, short = COMMANDS[cmd_name]
        if not self._loading:
            return _stub(cmd_name, short)  # enough for a listing
        command = typer.main.get_command(importlib.import_module(module).app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # The base class takes the names that it suggests for a typing error from this mapping.
        self.commands = cast(Any, dict.fromkeys(COMMANDS))
        self._loading = True
        try:
            return super().resolve_command(ctx, args)
        finally:
            self._loading = False


class Sectioned(TyperCommand):
    """A command whose plain-text help groups the options by section.

    Attributes:
        variadic: options that take every word up to the next option: `--compare A B`.
    """

    variadic: tuple[str, ...] = ()

    def extend(self, ctx: Any, words: Sequence[str]) -> Collection[str]:
        """Add the parameters that depend on the words; return their names."""
        return ()

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        words = list(_one_each(args, self.variadic))
        added = self.extend(ctx, words)
        rest = super().parse_args(ctx, words)
        # The function behind the command does not have them.
        ctx.meta[ADDED] = {name: ctx.params.pop(name) for name in added}
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            title = getattr(param, "rich_help_panel", None) or "Options"
            if param.param_type_name == "argument":
                title, record = "Arguments", (record[0].partition(" <")[0], record[1])  # no type
            sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _one_each(words: Sequence[str], variadic: Sequence[str]) -> Iterator[str]:
    """Write `--option A B` as `--option A --option B`, which the parser understands."""
    option = None
    first = True
    for word in words:
        if word.startswith("-") and word != "-":
            option, first = (word if word in variadic else None), True
        elif option is not None and not first:
            yield option
        else:
            first = False
        yield word


def _stub(name: str, short: str) -> Any:
    app = new_app()
    app.command(name, help=short)(_nothing)
    return typer.main.get_command(app)


def _nothing() -> None:
    """Stand in for a command that is not loaded."""


def show_help_if_alone(ctx: typer.Context) -> None:
    """Print the help of a group that was called without a command."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def new_app(help_text: str | None = None) -> typer.Typer:
    """Return a Typer object with plain-text help, which starts fast and fits any terminal."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        rich_markup_mode=None,
        context_settings=HELP_NAMES,
    )


def group(command: str) -> typer.Typer:
    """Return a Typer object for a command that has commands of its own."""
    app = new_app(COMMANDS[command][1])
    app.callback(invoke_without_command=True)(show_help_if_alone)
    return app


def root() -> Any:
    """Return the click command `gta`."""
    app = typer.Typer(cls=LazyGroup, context_settings=HELP_NAMES, rich_markup_mode=None)
    app.callback(invoke_without_command=True)(_gta)
    return typer.main.get_command(app)


def _gta(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Fine-tune, pre-train and evaluate vision transformers with attention guidance."""
    if version:
        from gtacli import __version__

        typer.echo(f"gta {__version__}")
        raise typer.Exit
    show_help_if_alone(ctx)


def usage_errors() -> type[Exception]:
    """Return the base class of the errors that Typer raises for wrong usage.

    Some versions of Typer contain a copy of click, others use the installed one.
    """
    bases = typer.BadParameter.__mro__
    return cast(type[Exception], next(c for c in bases if c.__name__ == "ClickException"))
