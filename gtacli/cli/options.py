"""Commands made from Pydantic configs: the fields become options, their descriptions the help.

    app = new_app()

    @config_command(app, FinetuneConfig, "finetune")
    def finetune(config: FinetuneConfig, call: Call) -> int | None:
        '''Fine-tune a pretrained ViT on labeled images.'''

Further parameters of the function (with Typer's annotations) become arguments and options of its
own. The config reads all values, never Typer, so that an error reads the same from every source.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gtacli.cli.call import Call, run_body
from gtacli.cli.completion import NAMES, completer, recipe_names
from gtacli.cli.environment import warn_of_variables
from gtacli.cli.lazy import ADDED, HELP_NAMES, Sectioned
from gtacli.cli.part_flags import META, STRENGTH, heading, part_flags
from gtacli.cli.spelling import flag, with_flags
from gtacli.config.base import alternatives
from gtacli.config.common import CommandConfig, CommonConfig
from gtacli.config.resolve import resolve
from gtacli.config.training import TrainingConfig
from gtacli.runtime.processes import process_info

if TYPE_CHECKING:
    Body = TypeVar("Body", bound=Callable[..., int | None])

# Parameters of commands that process images.
Images = Annotated[
    list[str] | None,
    typer.Argument(help="files, folders or patterns; - reads paths from stdin", metavar="IMAGE"),
]
Json = Annotated[bool, typer.Option("--json", help="print results as JSON Lines on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="log warnings only")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="log everything; show tracebacks")]
NullSeparated = Annotated[
    bool, typer.Option("-0", "--null", help="paths on stdin are separated by NUL")
]

SHORT = {"model": "-m", "out": "-o"}
FIRST = "Most used"
TRAINING = "Training"
COMMON = "Common to all commands"


class Declared(NamedTuple):
    """A command that has been declared."""

    body: Callable[..., int | None]
    model: type[CommandConfig]
    dry_run: bool


DECLARED: dict[str, Declared] = {}
"""The commands whose modules have been imported, by name."""


def config_command(
    app: typer.Typer, model: type[CommandConfig], command: str, *, dry_run: bool = True
) -> Callable[[Body], Body]:
    """Make `body(config, call, **its own)` the command of `app`; it may return an exit status.

    Args:
        app: the Typer object.
        model: the config's class.
        command: its name, with the group's name in front ("probe attention"); the environment's
            variables are named after it.
        dry_run: whether the command has `dry_run`.
    """

    def decorate(body: Body) -> Body:
        DECLARED[command] = Declared(body, model, dry_run)
        own = {"variadic": _variadic(model), "extend": _extension(model, command)}
        kind = type("Command", (Sectioned,), own)
        callback = _callback(body, model, command, dry_run)
        app.command(command.split()[-1], cls=kind, context_settings=HELP_NAMES)(callback)
        return body

    return decorate


def _extension(
    model: type[CommandConfig], command: str
) -> Callable[[Any, Any, Sequence[str]], Collection[str]]:
    """Return the method that adds the flags of the parts which a command line chooses."""

    def extend(self: Any, ctx: Any, words: Sequence[str]) -> Collection[str]:
        taken = {opt for param in self.params for opt in param.opts}
        found = ctx.meta[META] = part_flags(model, command, words, taken)
        had = {param.name for param in self.params}
        self.params = [param for param in self.params if param.name not in found.fields]
        for param in self.params:
            if getattr(param, "rich_help_panel", None) in found.hidden:
                param.hidden = True
            if param.name == STRENGTH:
                param.help = _with_strengths(param.help, found.strengths)
        own = [_field_option(*one, parameter=name) for name, one in found.fields.items()]
        last = (p for p in self.params if getattr(p, "rich_help_panel", None) in (TRAINING, COMMON))
        at = self.params.index(next(last))
        self.params[at:at] = _click_options(own)
        return found.fields.keys() - had

    return extend


def _with_strengths(text: str, strengths: Mapping[str, float]) -> str:
    """Return the help of `lam` with the defaults of the chosen parts, if it does not have them."""
    own = [f"{name} {value:g}" for name, value in strengths.items()]
    if all(one in text for one in own):
        return text
    return f"{text.partition(' [default: ')[0]} [default: {', '.join(own)}]"


def _click_options(parameters: Sequence[inspect.Parameter]) -> list[Any]:
    """Return parameters as Typer makes them for a command."""

    def nothing(**values: Any) -> None:
        """Take any values."""

    nothing.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    nothing.__annotations__ = {p.name: p.annotation for p in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(nothing)
    return [
        param
        for param in typer.main.get_command(app).params
        if param.name in nothing.__annotations__
    ]


def _callback(
    body: Callable[..., int | None], model: type[CommandConfig], command: str, dry_run: bool
) -> Callable[..., int | None]:
    """Return the function that Typer calls: it resolves the config and runs `body`."""
    own = list(inspect.signature(body, eval_str=True).parameters.values())[2:]
    fields = _field_options(model)

    def run(ctx: typer.Context, **given: Any) -> int | None:
        flags: dict[str | tuple[str, ...], Any] = {
            p.name: given[p.name] for p in fields if given[p.name] not in (None, [])
        }
        values = {**given, **ctx.meta[ADDED]}
        for name, place in ctx.meta[META].places.items():
            if (value := values[name]) is not None:
                flags.pop(name, None)
                flags[place] = value
        recipe, sets = given["recipe"], given["set"] or ()
        config = resolve(model, command, recipe=recipe, sets=sets, flags=flags, set_label="--set")
        if given["print_config"]:
            if process_info().rank == 0:
                from gtacli.config.toml import to_toml

                sys.stdout.write(to_toml(config, command))
            return 0
        from gtacli.cli import console

        switches = {
            name: given.get(name, False) for name in ("json", "quiet", "verbose", "dry_run")
        }
        console.setup(quiet=given["quiet"], verbose=given["verbose"])
        warn_of_variables(command, model.model_fields)
        call = Call(command, **switches, argv=tuple(ctx.find_root().obj or sys.argv[1:]))
        return run_body(body, config, call, {p.name: given[p.name] for p in own}, recipe)

    parameters = [
        inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context),
        *(p.replace(kind=_KEYWORD) for p in own),
        *fields,
        *_switches(command, dry_run),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = body.__doc__
    return run


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _parameter(name: str, kind: Any, option: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=Annotated[kind, option])


def _field_options(model: type[CommandConfig]) -> list[inspect.Parameter]:
    """Return the options of a config's fields, section by section."""
    fields = model.model_fields
    panels = dict.fromkeys(fields)
    if issubclass(model, TrainingConfig):
        panels |= dict.fromkeys(TrainingConfig.model_fields, TRAINING)
    panels |= dict.fromkeys((k for k in CommonConfig.model_fields if k in fields), COMMON)
    panels |= dict.fromkeys(model.first, FIRST)

    def options(panel: str | None) -> list[inspect.Parameter]:
        order = model.first if panel == FIRST else fields
        shown = (k for k in order if panels[k] == panel and _extra(fields[k]).get("flag", True))
        return [_field_option(k, fields[k], panel) for k in shown]

    # They stand beside the fields, as scripts use them whatever regularizer a recipe has.
    panel = heading("regularizer", "gta")
    flat = [_field_option(k, f, panel) for k, f in model.flat_fields().items()]
    return [*options(FIRST), *options(None), *flat, *options(TRAINING), *options(COMMON)]


def _extra(field: FieldInfo) -> dict[str, Any]:
    """Return what a field says to the command line in its `json_schema_extra`.

    metavar, default: texts for the help. choices: words for the completion beside those of the
    type. flag=False: no option; recipes and `set` fill the table. switch=True: the option is off
    unless given, and has no opposite. multiple=True: may be given several times. variadic=True:
    takes every word up to the next option.
    """
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def takes_several(field: FieldInfo) -> bool:
    """Return whether an option may be given several times."""
    return bool(_extra(field).get("multiple"))


def _variadic(model: type[CommandConfig]) -> tuple[str, ...]:
    """Return the options of several words, as in `--compare A B`."""
    return tuple(flag(k) for k, f in model.model_fields.items() if _extra(f).get("variadic"))


def _field_option(
    name: str, field: FieldInfo, panel: str | None, parameter: str | None = None
) -> inspect.Parameter:
    extra = _extra(field)
    kinds = alternatives(field.annotation)
    boolean = kinds == [bool]
    pair = boolean and not extra.get("switch")
    decls = [f"{flag(name)}/{flag(f'no_{name}')}" if pair else flag(name)]
    if name in SHORT:
        decls.append(SHORT[name])
    option = typer.Option(
        *decls,
        help=_help(field, boolean),
        metavar=None if boolean else str(extra.get("metavar") or _metavar(kinds)),
        show_default=False,
        rich_help_panel=panel,
        autocompletion=None if boolean else _completion(name, kinds, extra),
    )
    kind: Any = bool if boolean else list[str] if extra.get("multiple") else str
    return _parameter(parameter or name, kind | None, option)


def _completion(
    name: str, kinds: list[Any], extra: Mapping[str, Any]
) -> Callable[[str], list[str]] | None:
    """Return the completion of an option's values: its fixed words, and the names it takes."""
    words = [*_words(kinds), *extra.get("choices", ())]
    if name not in NAMES and not words:
        return None
    names = NAMES.get(name, list)
    return completer(lambda: [*words, *names()])


def _help(field: FieldInfo, boolean: bool) -> str:
    """Return the description of a field with its default."""
    text = field.description or ""
    default = _extra(field).get("default")
    value = field.default
    if default is None and value is not None and value is not PydanticUndefined:
        if boolean:
            default = "on" if value else "off"
        else:
            default = f"{value:g}" if isinstance(value, float) else value
    return with_flags(text if default is None else f"{text} [default: {default}]")


def _words(kinds: list[Any]) -> list[str]:
    """Return the words that a type admits, those of a list's elements too."""
    words: list[str] = []
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            words += map(str, typing.get_args(kind))
        elif typing.get_origin(kind) in (tuple, list):
            words += _words([k for a in typing.get_args(kind) for k in alternatives(a)])
    return words


def _metavar(kinds: list[Any]) -> str:
    words: list[str] = []
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            words += _words([kind])
        elif typing.get_origin(kind) in (tuple, list):
            words.append("LIST")
        else:
            words.append({int: "N", float: "X", str: "TEXT", Path: "PATH"}.get(kind, "VALUE"))
    return "|".join(words)


def _switches(command: str, dry_run: bool) -> list[inspect.Parameter]:
    """Return the options of every command that no config has."""

    def option(*decls: str, help_text: str, **settings: Any) -> Any:
        return typer.Option(*decls, help=help_text, rich_help_panel=COMMON, **settings)

    def switch(name: str, help_text: str, *decls: str) -> inspect.Parameter:
        declared = option(*decls or (flag(name),), help_text=help_text)
        return _parameter(name, bool, declared, default=False)

    recipe = option(
        "--recipe",
        help_text="read options from a TOML file, a shipped recipe (`gta recipes list`), or, of a "
        "training, from the folder of a run that is to be repeated",
        metavar="NAME|FILE.toml|RUN",
        autocompletion=completer(lambda: recipe_names(command)),
    )
    sets = option(
        "--set",
        help_text="set a key of a recipe, such as discovery.dino.heads=mean; may be repeated",
        metavar="KEY.SUB=VALUE",
    )
    found = [
        switch("json", "print results as JSON Lines on stdout"),
        switch("quiet", "log warnings only", "--quiet", "-q"),
        switch("verbose", "log everything; show tracebacks", "--verbose", "-v"),
        _parameter("recipe", str | None, recipe),
        _parameter("set", list[str] | None, sets),
        switch("print_config", "print the resolved config as TOML and exit"),
    ]
    if dry_run:
        what = "run one batch of every phase; write nothing but the report"
        found.append(switch("dry_run", what))
    return found
