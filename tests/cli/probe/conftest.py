"""Fixtures for the tests of `gta probe`."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import pytest


@pytest.fixture
def check_fields() -> Callable[[Any, Any], None]:
    """Return a function that checks a line of JSON against a class of `gtacli.probing.results`."""

    def check(hint: Any, value: Any) -> None:
        origin, arguments = get_origin(hint), get_args(hint)
        if is_typeddict(hint):
            hints = get_type_hints(hint, include_extras=True)
            fields = {key: one for key, one in value.items() if not key.startswith("recall@")}
            required = {key for key, one in hints.items() if get_origin(one) is not NotRequired}
            assert required <= fields.keys() <= hints.keys()
            for key, one in fields.items():
                check(hints[key], one)
        elif origin in (Annotated, NotRequired):
            check(arguments[0], value)
        elif origin is Literal:
            assert value in arguments
        elif origin in (list, dict):
            for one in value.values() if origin is dict else value:
                check(arguments[-1], one)
        elif NoneType in arguments:  # the other member of the union comes first
            if value is not None:
                check(arguments[0], value)
        else:
            assert isinstance(value, int | float if hint is float else hint)

    return check
