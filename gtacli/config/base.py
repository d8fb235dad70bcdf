"""What every config is made of: the strict base model, and errors rewritten for people.

A config is strict in its types too: ``epochs = "10"`` in a recipe is refused, as is ``epochs =
true``. Text that comes from a command line or the environment is read as a value before it gets
here (see `gtacli.config.values`). A field that takes text for something else (a path) says so
with ``Field(strict=False)`` or a ``BeforeValidator``.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gtacli.errors import UsageError

ModelT = TypeVar("ModelT", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of every config and of every part's options: unknown keys are errors, values stay."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )


def build(model: type[ModelT], values: Mapping[str, Any], where: str) -> ModelT:
    """`model` from `values`; the first error becomes one `UsageError` line that starts by `where`.

    For options that no command line names (a plug-in's own): ``where="[regularizer.delta]"``.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        path, text = first_problem(error, model)
        key = ".".join(path)
        raise UsageError(f"{where} {key}: {text}" if key else f"{where} {text}") from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'epochs'?"``, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


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
    error: ValidationError, model: type[BaseModel], known: Iterable[str] = ()
) -> tuple[tuple[str, ...], str]:
    """Path of the first faulty key and what is wrong with it, in words.

    The alternatives of a union are reported as one: "must be a whole number or text, got true".
    `known` are keys that are accepted beside the model's own, for "did you mean".
    """
    problems = error.errors(include_url=False)
    head = problems[0]
    # pydantic appends the alternative's name to the path of each member of a union
    fields = model.model_fields
    is_key = bool(head["loc"]) and head["loc"][0] in fields
    top = head["loc"][:1]
    same = [p for p in problems if is_key and p["loc"][:1] == top and p["input"] is head["input"]]
    if len(same) > 1:
        wanted = [w for p in same if (w := _wanted(p))]
        if len(wanted) == len(same):
            text = " or ".join(dict.fromkeys(wanted))
            return (str(top[0]),), f"must be {text}, got {_show(head['input'])}"
    path = tuple(str(part) for part in head["loc"])
    return path, _in_words(head, [*fields, *known])


def _wanted(problem: Mapping[str, Any]) -> str | None:
    kind: str = problem["type"]
    if kind == "literal_error":
        words = str(problem["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
        return f"one of {words}" if ", " in words else words
    for suffix in ("_type", "_parsing", "_from_float", "_attributes_type"):
        if kind.endswith(suffix) and kind.removesuffix(suffix) in _TYPES:
            return _TYPES[kind.removesuffix(suffix)]
    if kind == "none_required":
        return "unset"
    if kind == "finite_number":
        return "a finite number"
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{words} {problem['ctx'][key]:g}"
    return None


def _in_words(problem: Mapping[str, Any], known: list[str]) -> str:
    kind: str = problem["type"]
    value = problem["input"]
    if kind == "extra_forbidden":
        key = str(problem["loc"][-1])
        return f"unknown key '{key}'{did_you_mean(key, known)}"
    if kind == "missing":
        return "is required"
    wanted = _wanted(problem)
    if wanted is not None:
        hint = ""
        if kind == "literal_error" and isinstance(value, str):
            words = wanted.removeprefix("one of ").split(", ")
            hint = did_you_mean(value, words)
        return f"must be {wanted}, got {_show(value)}{hint}"
    if kind in ("value_error", "assertion_error"):
        return str(problem["msg"]).split(", ", 1)[-1]
    message = str(problem["msg"])
    return message[:1].lower() + message[1:] + f", got {_show(value)}"


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
