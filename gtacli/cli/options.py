"""From a Pydantic config to a command: its fields become the options, their descriptions the help.

    app = new_app()

    @config_command(app, FinetuneConfig, "finetune")
    def finetune(config: FinetuneConfig, call: Call) -> int | None:
        '''Train a pretrained ViT on your images.'''

What else the function takes (with Typer's annotations) becomes arguments and options of its own.
A value is read by the config, never by Typer, so that an error reads the same from every source.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gtacli.cli.lazy import HELP_NAMES, Sectioned
from gtacli.cli.spelling import with_flags
from gtacli.config.common import CommandConfig, CommonConfig
from gtacli.config.resolve import resolve
from gtacli.config.training import TrainingConfig
from gtacli.errors import Interrupted
from gtacli.runtime.processes import process_info

if TYPE_CHECKING:
    Body = TypeVar("Body", bound=Callable[..., int | None])

# What commands that work through images take.
Images = Annotated[
    list[str] | None, typer.Argument(help="files, folders, patterns; - reads paths from stdin")
]
Json = Annotated[bool, typer.Option("--json", help="results as JSON Lines on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="log warnings only")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="log everything; show tracebacks")]
NullSeparated = Annotated[bool, typer.Option("-0", "--null", help="NUL-separated paths on stdin")]

SHORT = {"model": "-m", "out": "-o"}
TRAINING = "Of every training"
COMMON = "Common to all commands"


@dataclass(frozen=True)
class Call:
    """How a command was called, beside its config.

    Attributes:
        command: its name.
        json: results as JSON Lines.
        quiet: log warnings only.
        verbose: log everything.
        dry_run: one batch of every phase, nothing written but the report.
        argv: what was typed after `gta`.
    """

    command: str
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    dry_run: bool = False
    argv: tuple[str, ...] = ()


def config_command(
    app: typer.Typer, model: type[CommandConfig], command: str, *, dry_run: bool = True
) -> Callable[[Body], Body]:
    """Makes `body(config, call, **its own)` the command of `app`; it may return an exit status.

    Args:
        app: the Typer object.
        model: the config's class.
        command: its name, below a group with the group's ("probe attention"); the environment's
            variables are called after it.
        dry_run: whether there is a `--dry-run`.
    """

    def decorate(body: Body) -> Body:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[2:]
        fields = _field_options(model)
        switches = _switches(dry_run)
        parameters = [
            inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context),
            *(p.replace(kind=_KEYWORD) for p in own),
            *fields,
            *switches,
        ]

        def run(ctx: typer.Context, **given: Any) -> int | None:
            keys = {p.name for p in fields}
            flags = {k: given[k] for k in keys if given[k] is not None and given[k] != []}
            config = resolve(
                model,
                command,
                recipe=given["recipe"],
                sets=given["set"] or (),
                flags=flags,
                set_label="--set",
            )
            if given["print_config"]:
                from gtacli.config.toml import to_toml

                if not process_info().rank:
                    sys.stdout.write(to_toml(config, command))
                return 0
            from gtacli.cli import console

            console.setup(quiet=given["quiet"], verbose=given["verbose"])
            call = Call(
                command,
                json=given["json"],
                quiet=given["quiet"],
                verbose=given["verbose"],
                dry_run=given.get("dry_run", False),
                argv=tuple(ctx.find_root().obj or sys.argv[1:]),
            )
            try:
                return body(config, call, **{p.name: given[p.name] for p in own})
            except KeyboardInterrupt:  # of which Typer would make a status without a word
                raise Interrupted("interrupted") from None

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__doc__ = body.__doc__
        kind = type("Command", (Sectioned,), {"variadic": _variadic(model)})
        app.command(command.split()[-1], cls=kind, context_settings=HELP_NAMES)(run)
        return body

    return decorate


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _parameter(name: str, kind: Any, option: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=Annotated[kind, option])


def _field_options(model: type[CommandConfig]) -> list[inspect.Parameter]:
    fields = model.model_fields
    panels = dict.fromkeys(fields)
    if issubclass(model, TrainingConfig):
        panels |= dict.fromkeys(TrainingConfig.model_fields, TRAINING)
    panels |= dict.fromkeys((k for k in CommonConfig.model_fields if k in fields), COMMON)

    def options(panel: str | None) -> list[inspect.Parameter]:
        shown = (k for k in fields if panels[k] == panel and _has_flag(fields[k]))
        return [_field_option(k, fields[k], panel) for k in shown]

    flat = [_field_option(k, f, "Regulariser gta") for k, f in model.flat_fields().items()]
    return [*options(None), *flat, *options(TRAINING), *options(COMMON)]


def _variadic(model: type[CommandConfig]) -> tuple[str, ...]:
    """Options of several words, as in `--compare A B`."""
    extras = {k: f.json_schema_extra for k, f in model.model_fields.items()}
    return tuple(
        "--" + key.replace("_", "-")
        for key, extra in extras.items()
        if isinstance(extra, dict) and extra.get("variadic")
    )


def _has_flag(field: FieldInfo) -> bool:
    """`json_schema_extra={"flag": False}` is for tables, which recipes and --set fill."""
    extra = field.json_schema_extra
    return not isinstance(extra, dict) or extra.get("flag") is not False


def _field_option(name: str, field: FieldInfo, panel: str | None) -> inspect.Parameter:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    flag = "--" + name.replace("_", "-")
    kinds = _kinds(field.annotation)
    boolean = kinds == [bool]
    # A "switch" is off unless it is given, and has no opposite.
    decls = [f"{flag}/--no-{flag[2:]}"] if boolean and not extra.get("switch") else [flag]
    if name in SHORT:
        decls.append(SHORT[name])
    option = typer.Option(
        *decls,
        help=_help(field, extra, boolean),
        metavar=None if boolean else str(extra.get("metavar") or _metavar(kinds, field)),
        show_default=False,
        rich_help_panel=panel,
    )
    kind: Any = bool if boolean else list[str] if extra.get("multiple") else str
    return _parameter(name, kind | None, option)


def _help(field: FieldInfo, extra: Mapping[str, Any], boolean: bool) -> str:
    text = field.description or ""
    default = extra.get("default")
    value = field.default
    if default is None and value is not None and value is not PydanticUndefined:
        default = (
            ("on" if value else "off")
            if boolean
            else f"{value:g}"
            if isinstance(value, float)
            else value
        )
    shown = "" if default is None else f" [default: {default}]"
    return with_flags(text + shown)


def _kinds(annotation: Any) -> list[Any]:
    """The alternatives of a field's type, without None and without metadata."""
    if typing.get_origin(annotation) is Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [k for a in typing.get_args(annotation) for k in _kinds(a) if k is not type(None)]
    return [annotation]


def _metavar(kinds: list[Any], field: FieldInfo) -> str:
    words: list[str] = []
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            words += [str(choice) for choice in typing.get_args(kind)]
        elif typing.get_origin(kind) in (tuple, list):
            words.append("LIST")
        else:
            words.append({int: "N", float: "X", str: "TEXT", Path: "PATH"}.get(kind, "VALUE"))
    return "|".join(words)


def _switches(dry_run: bool) -> list[inspect.Parameter]:
    def switch(name: str, help_text: str, *decls: str) -> inspect.Parameter:
        option = typer.Option(*decls, help=help_text, rich_help_panel=COMMON)
        return _parameter(name, bool, option, default=False)

    recipe = typer.Option(
        "--recipe",
        help="options from a TOML file, or from a shipped recipe (`gta recipes list`)",
        metavar="NAME|FILE.toml",
        rich_help_panel=COMMON,
    )
    sets = typer.Option(
        "--set",
        help="any key of a recipe, a part's own options too; may be given several times",
        metavar="KEY.SUB=VALUE",
        rich_help_panel=COMMON,
    )
    found = [
        switch("json", "results as JSON Lines on stdout", "--json"),
        switch("quiet", "log warnings only", "--quiet", "-q"),
        switch("verbose", "log everything; show tracebacks", "--verbose", "-v"),
        _parameter("recipe", str | None, recipe),
        _parameter("set", list[str] | None, sets),
        switch("print_config", "print the resolved config as TOML; do nothing", "--print-config"),
    ]
    if dry_run:
        what = "one batch of every phase; write nothing but the report"
        found.append(switch("dry_run", what, "--dry-run"))
    return found
