"""The top-level group: commands by table, each module imported only when its command is used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, cast

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

# name -> (module with the Typer object `app`, short help)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("gtacli.cli.demo", "Plain fine-tuning against GTA, in minutes."),
    "finetune": ("gtacli.cli.finetune", "Train a pretrained ViT on your images."),
    "pretrain": ("gtacli.cli.pretrain", "Train a ViT without labels, led to the objects."),
    "report": ("gtacli.cli.report", "Show runs side by side on one page."),
    "predict": ("gtacli.cli.predict", "Name the classes of images."),
    "segment": ("gtacli.cli.segment", "Find the object in images: masks and boxes."),
    "attention-map": ("gtacli.cli.attention_map", "Draw what a model looks at in images."),
    "attn-maps": ("gtacli.cli.attention_map", "The same under a shorter name."),
    "discover": ("gtacli.cli.discover", "Find the objects of many images once, for training."),
    "maps": ("gtacli.cli.maps", "The maps that gta discover keeps: figures, check, pictures."),
    "probe": ("gtacli.cli.probe", "What a network has learnt, measured without training it."),
    "data": ("gtacli.cli.data", "Data sets: whether they are whole and readable."),
    "models": ("gtacli.cli.models", "The models that can be used."),
    "plugins": ("gtacli.cli.plugins", "Installed parts and whether they work."),
    "recipes": ("gtacli.cli.recipes", "Ready-made options for a command."),
    "doctor": ("gtacli.cli.doctor", "Versions, devices, health of the plug-ins."),
}
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class LazyGroup(TyperGroup):
    """Lists commands from the table; loads one when it is to run."""

    _loading = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, short = COMMANDS[cmd_name]
        if not self._loading:
            # Enough for the listing: no module is imported for its help line.
            return _stub(cmd_name, short)
        command = typer.main.get_command(importlib.import_module(module).app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # The base class suggests near names from this mapping.
        self.commands = cast(Any, dict.fromkeys(COMMANDS))
        self._loading = True
        try:
            return super().resolve_command(ctx, args)
        finally:
            self._loading = False


class Sectioned(TyperCommand):
    """A command whose help groups the options by their panel, in plain text.

    An option in `variadic` takes every word up to the next option: `--compare A B`.
    """

    variadic: tuple[str, ...] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        return super().parse_args(ctx, list(_one_each(args, self.variadic)))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                other = "Arguments" if param.param_type_name == "argument" else "Options"
                panel = getattr(param, "rich_help_panel", None) or other
                sections.setdefault(panel, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _one_each(words: Sequence[str], variadic: Sequence[str]) -> Iterator[str]:
    """`--option A B` as `--option A --option B`, which is what the parser understands."""
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
    """Stands for a command that is not loaded."""


def show_help_if_alone(ctx: typer.Context) -> None:
    """For a group that was called without a command."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def new_app(help_text: str | None = None) -> typer.Typer:
    """A Typer object in the house's style: plain help, which starts at once and fits anywhere."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        rich_markup_mode=None,
        context_settings=HELP_NAMES,
    )


def group(help_text: str) -> typer.Typer:
    """The same for a command with commands of its own."""
    app = new_app(help_text)
    app.callback(invoke_without_command=True)(show_help_if_alone)
    return app


def root() -> Any:
    """The click command `gta`."""
    app = typer.Typer(cls=LazyGroup, context_settings=HELP_NAMES, rich_markup_mode=None)
    app.callback(invoke_without_command=True)(_gta)
    return typer.main.get_command(app)


def _gta(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Fine-tune vision transformers on few labels while they keep looking at the object."""
    if version:
        from gtacli import __version__

        typer.echo(f"gta {__version__}")
        raise typer.Exit
    show_help_if_alone(ctx)


def usage_errors() -> type[Exception]:
    """The base of what Typer raises for wrong usage.

    Typer brings its own copy of click in some versions and uses the installed one in others.
    """
    bases = typer.BadParameter.__mro__
    return cast(type[Exception], next(c for c in bases if c.__name__ == "ClickException"))
