"""Every command as a function: `gtacli.finetune(data="photos", model="runs/a", lam=0.1)`.

    summary = gtacli.finetune(data="photos", model="vit_tiny_patch16_224", lam=0.1)
    for prediction in gtacli.predict("new/*.jpg", model=summary["run"]):
        print(prediction["image"], prediction["top"][0])

A function has the options of its command under the same names, with underscores, and returns what
the command prints with `--json`: one result, or a list with one for each image. Images that cannot
be read are elements with an `error`. It is quiet, as a library is: the log goes to Python's logging
as `gtacli`, and `quiet=False` shows it with the progress. Wrong input raises
`gtacli.errors.GtaError`; Ctrl-C raises KeyboardInterrupt once the state has been saved. Environment
variables set no options here.

The functions are made from the commands when they are first used. `functions.pyi` declares them for
type checkers; `python docs/scripts/functions.py` writes it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gtacli.config.base import did_you_mean

Function = Callable[..., Any]


class CommandEntry(NamedTuple):
    """A command that is a function.

    Attributes:
        module: that declares it, in `gtacli.cli`.
        many: whether it returns a list: a result for each image, and what follows them.
    """

    command: str
    module: str
    many: bool = False


_PROBES = ("attention", "background", "fewshot", "knn", "linear", "retrieval", "robust", "transfer")
FUNCTIONS: Mapping[str, CommandEntry] = {
    "finetune": CommandEntry("finetune", "finetune"),
    "pretrain": CommandEntry("pretrain", "pretrain"),
    "predict": CommandEntry("predict", "predict", many=True),
    "segment": CommandEntry("segment", "segment", many=True),
    "attention_map": CommandEntry("attention-map", "attention_map", many=True),
    "embed": CommandEntry("embed", "embed"),
    "discover": CommandEntry("discover", "discover"),
    "calibrate": CommandEntry("calibrate", "calibrate"),
    "merge": CommandEntry("merge", "merge"),
    "export": CommandEntry("export", "export"),
    "report": CommandEntry("report", "report"),
    "demo": CommandEntry("demo", "demo"),
    **{f"probe_{name}": CommandEntry(f"probe {name}", "probe") for name in _PROBES},
}
"""By the function's name. `report` and `demo` are packages of gtacli, too, so that these two are
only here."""
SWITCHES: Mapping[str, tuple[str, Any]] = {
    "recipe": ("str | None", None),
    "set": ("dict[str, Any] | None", None),
    "dry_run": ("bool", False),
    "quiet": ("bool", True),
}
"""Type and default of the parameters of all functions beside the options; `set` has keys of a
recipe, such as {"discovery.tokencut.tau": 0.3}."""


def __getattr__(name: str) -> Function:
    if name not in FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = globals()[name] = _make(name)
    return function


def __dir__() -> list[str]:
    return sorted(FUNCTIONS)


def _make(name: str) -> Function:
    """Return the function of a command."""
    from gtacli.cli.options import DECLARED

    entry = FUNCTIONS[name]
    importlib.import_module(f"gtacli.cli.{entry.module}")
    declared = DECLARED[entry.command]
    signature = _signature(declared.body, declared.model, declared.dry_run)
    first = next(iter(signature.parameters.values()))
    positional = first if first.kind is _EITHER else None

    def function(*arguments: Any, **given: Any) -> Any:
        if unknown := [key for key in given if key not in signature.parameters]:
            hint = did_you_mean(unknown[0], signature.parameters)
            raise TypeError(f"{name}() has no option '{unknown[0]}'{hint}")
        bound = signature.bind(*arguments, **given).arguments
        return _run(entry, declared, positional, bound)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "gtacli"
    function.__doc__ = _FLAG.sub(_as_option, inspect.getdoc(declared.body) or "")
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


_FLAG = re.compile(r"(?<![-\w])--([a-z][a-z-]*)")


def _as_option(found: re.Match[str]) -> str:
    return f"`{found[1].replace('-', '_')}`"


_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _signature(body: Function, model: Any, dry_run: bool) -> inspect.Signature:
    own = list(inspect.signature(body, eval_str=True).parameters.values())[2:]
    words = [p for p in own if p.name != "null"]  # of paths on stdin
    found = [p.replace(kind=_EITHER) for p in words]
    every = {**model.model_fields, **model.flat_fields()}
    fields = {key: every[key] for key in dict.fromkeys((*model.first, *every))}
    found += [
        inspect.Parameter(
            key,
            _KEYWORD,
            default=None if field.default_factory or field.is_required() else field.default,
            annotation=field.annotation,
        )
        for key, field in fields.items()
        if not any(p.name == key for p in words)
    ]
    found += [
        inspect.Parameter(key, _KEYWORD, default=default)
        for key, (_, default) in SWITCHES.items()
        if key != "dry_run" or dry_run
    ]
    return inspect.Signature(found)


def _run(
    entry: CommandEntry,
    declared: Any,
    positional: inspect.Parameter | None,
    bound: Mapping[str, Any],
) -> Any:
    """Run a command and return its results."""
    from gtacli.cli import console
    from gtacli.cli.call import Call, run_body
    from gtacli.cli.options import takes_several
    from gtacli.config.resolve import resolve
    from gtacli.errors import Interrupted, UsageError

    given = dict(bound)
    own = {}
    if positional is not None:
        own[positional.name] = _words(given.pop(positional.name, None), positional.annotation)
    recipe, sets = given.pop("recipe", None), given.pop("set", None) or {}
    dry_run, quiet = given.pop("dry_run", False), given.pop("quiet", True)
    if given.get("nproc", 1) != 1:
        raise UsageError("a function runs in its own process; use the command", option="nproc")
    several = {k for k, f in declared.model.model_fields.items() if takes_several(f)}
    flags: dict[str | tuple[str, ...], Any] = {
        key: [_plain(value)] if key in several and _is_one(value) else _plain(value)
        for key, value in given.items()
    }
    flags |= {tuple(key.split(".")): _plain(value) for key, value in sets.items()}
    named = None if recipe is None else os.fspath(recipe)
    config = resolve(declared.model, entry.command, recipe=named, env={}, flags=flags)
    if not quiet:
        console.setup()
    call = Call(entry.command, json=True, quiet=quiet, dry_run=dry_run)
    with console.collecting(quiet) as results:
        try:
            status = run_body(declared.body, config, call, own, named)
        except Interrupted as stop:
            raise KeyboardInterrupt(stop.message) from None
    if status == 130:
        raise KeyboardInterrupt("interrupted; what was written so far is kept")
    return results if entry.many else results[-1] if results else None


def _words(value: Any, annotation: Any) -> Any:
    """Return images or runs as the command has them: one or a list, text or Path."""
    from gtacli.config.base import alternatives

    kinds = str(alternatives(annotation))
    read = Path if "Path" in kinds else os.fspath
    if value is None:
        return None
    if "list" not in kinds:
        return read(value)
    return [read(one) for one in ([value] if _is_one(value) else value)]


def _is_one(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _plain(value: Any) -> Any:
    """Return paths as text, also in a list."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_plain(one) for one in value] if isinstance(value, list) else value
