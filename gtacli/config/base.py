"""The strict base model of every config, and validation errors in words.

A config is strict in its types too: ``epochs = "10"`` in a recipe is refused, as is ``epochs =
true``. Only text from a command line or the environment is converted, by the type of its field
(`read_text`). A field that takes text for something else (a path) says so with
``Field(strict=False)`` or a ``BeforeValidator``.
"""

import difflib
import json
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from gtacli.config.values import literal
from gtacli.errors import UsageError

ModelT = TypeVar("ModelT", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of every config and of every part's options: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )


def build(
    model: type[ModelT], values: Mapping[str, Any], option: str = "", source: str | None = None
) -> ModelT:
    """Build `model` from `values`; the first validation error becomes a one-line `UsageError`.

    Args:
        model: the class to build.
        values: its fields' values by name.
        option: the table of a config that holds the values ("regularizer.delta"), if any.
        source: the file that holds the values, if it is no argument of this call.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problem = first_problem(error, model.model_fields)
        key = ".".join(filter(None, (option, *problem.path)))
        raise UsageError(problem.text, option=key or None, source=source) from None


def read_content(
    model: type[ModelT], value: Any, name: str = "", *, as_json: bool = False
) -> ModelT:
    """Return what a file holds in a model.

    Args:
        model: the class that declares the entries.
        value: the content of the file, or of one of its entries.
        name: of that entry.
        as_json: read it as JSON, where a list may be a tuple.

    Raises ValueError with one line that names the entry: "'data.name' must be text, got 3".
    """
    try:
        if not as_json:
            return model.model_validate(value)
        # Names of files need not be valid text.
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        return model.model_validate_json(text)
    except ValidationError as error:
        problem = first_problem(error, model.model_fields)
        # In quotes: what stands in backticks is an option of a command.
        path = ".".join(filter(None, (name, *problem.path)))
        raise ValueError(f"'{path}' {problem.text}" if path else problem.text) from None


def alternatives(annotation: Any) -> list[Any]:
    """Return the alternatives of a field's type, without None and without metadata."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        members = typing.get_args(annotation)
        return [k for member in members for k in alternatives(member) if k is not type(None)]
    return [annotation]


def read_text(text: str, field: FieldInfo, *, as_written: bool = False) -> Any:
    """Read a text from a shell by the type of its field; lists and tables are written in TOML.

    Args:
        text: what was typed.
        field: the field that it is for.
        as_written: return the value in the form in which a recipe holds it (an image size of
            (320, 224) as "320x224").

    Raises ValidationError.
    """
    annotation: Any = Annotated[field.annotation, field]
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=StrictModel.model_config)
    containers = {typing.get_origin(kind) for kind in alternatives(field.annotation)}
    value = literal(text) if containers & {list, tuple, dict} and text[:1] in ("[", "{") else text
    if isinstance(value, str):
        read = adapter.validate_strings(value)
        return adapter.dump_python(read, mode="json") if as_written else read
    read = adapter.validate_json(json.dumps(value, default=str))  # where a tuple may be a list
    return value if as_written else read


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'epochs'?"``, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


@dataclass(frozen=True)
class Problem:
    """The first error that Pydantic finds, in words.

    Attributes:
        path: of the faulty key.
        text: the problem, without the key.
        unknown_key: whether there is no such key.
    """

    path: tuple[str, ...]
    text: str
    unknown_key: bool = False


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "dict": "a table",
    "model": "a table",
    "list": "a list",
    "tuple": "a list",
    "none": "unset",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def first_problem(
    error: ValidationError, keys: Collection[str], *, at: tuple[str, ...] = (), typed: bool = False
) -> Problem:
    """Describe the first problem of a validation error.

    The alternatives of a union are reported as one: "must be a whole number or text, got true".

    Args:
        error: what Pydantic raised.
        keys: the accepted keys, for "did you mean".
        at: path of the validated value, where it is only one field's.
        typed: whether the values are text from a shell; numbers are then shown without quotes.
    """
    problems = error.errors(include_url=False)
    head, given = problems[0], problems[0]["input"]
    path = tuple(str(part) for part in (*at, *head["loc"]))
    value = literal(given) if typed and isinstance(given, str) else given
    if head["type"] == "extra_forbidden":
        text = f"unknown key '{path[-1]}'{did_you_mean(path[-1], keys)}"
        return Problem(path, text, unknown_key=True)
    # Pydantic reports every member of a union, with the member's name at the end of its path.
    top = path[:1]
    same = [p for p in problems if (*at, *p["loc"])[:1] == top and p["input"] is given]
    wanted = [_wanted(p) for p in same]
    if len(same) > 1 and all(wanted) and path[0] in keys:
        text = " or ".join(dict.fromkeys(wanted))
        return Problem(top, f"must be {text}, got {_show(value)}")
    return Problem(path, _in_words(head, value))


def _wanted(problem: Mapping[str, Any]) -> str:
    """Return what Pydantic wanted instead ("a whole number"); "" if that is not known."""
    kind: str = problem["type"]
    if kind == "literal_error":
        words = str(problem["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
        return f"one of {words}" if ", " in words else words
    for suffix in ("_type", "_parsing", "_from_float", "_attributes_type"):
        if kind.endswith(suffix) and kind.removesuffix(suffix) in _TYPES:
            return _TYPES[kind.removesuffix(suffix)]
    if kind == "none_required":
        return "unset"
    if kind == "too_short":
        least = problem["ctx"]["min_length"]
        return f"a list with at least {least} {'entry' if least == 1 else 'entries'}"
    if kind == "finite_number":
        return "a finite number"
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{words} {problem['ctx'][key]:g}"
    return ""


def _in_words(problem: Mapping[str, Any], value: Any) -> str:
    kind: str = problem["type"]
    if kind == "missing":
        return "is required"
    wanted = _wanted(problem)
    if wanted:
        hint = ""
        if kind == "literal_error" and isinstance(value, str):
            hint = did_you_mean(value, wanted.removeprefix("one of ").split(", "))
        return f"must be {wanted}, got {_show(value)}{hint}"
    message = str(problem["msg"])
    if kind in ("value_error", "assertion_error"):
        return message.split(", ", 1)[-1]
    return message[:1].lower() + message[1:] + f", got {_show(value)}"


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
