"""Errors that surroundings cause: a variable of a library, a bare system, a missing compiler."""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

from gtacli.errors import GtaError, RunError, UsageError

_COMPILERS = ("torch._dynamo", "torch._inductor", "triton")
_PARTS = ("/proc/self", "/dev/urandom", "/dev/null")


def explain_surroundings(error: BaseException) -> GtaError | None:
    """Return an error that says what is wrong around the program; None if nothing is known to be.

    Libraries read environment variables, and parts of the system, when they are imported, and fail
    in their own words. A variable is named if its value stands in the error, and its name in a
    file of the library that failed.
    """
    missing = [part for part in _PARTS if not Path(part).exists()]
    if missing and sys.platform == "linux":
        text = " ".join(str(error).split())
        return RunError(
            f"this system has no {' and no '.join(missing)}, without which libraries fail "
            f"({text}); mount /proc and /dev"
        )
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, GtaError):
        if type(cause).__module__.startswith(_COMPILERS):
            what = re.sub(r"^\w+: ", "", " ".join(str(cause).partition("\n")[0].split()))
            text = f"the networks cannot be compiled here ({what}); train without it"
            return RunError(text, option="compile")
        if name := _find_variable(cause):
            what = " ".join(str(cause).split())
            shown = what if len(what) <= 120 else f"{what[:117]}..."
            text = f"'{os.environ[name]}' is refused by a library that reads it ({shown})"
            return UsageError(text, source=name)
        cause = cause.__cause__
    return None


def _find_variable(error: BaseException) -> str | None:
    """Return the environment variable on whose value an import failed."""
    codes = [*_codes(error)]
    if not any(code.co_name == "<module>" for code in codes):
        return None
    text = str(error)
    named = [
        name
        for name, value in os.environ.items()
        if value and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text)
    ]
    for code in reversed(codes):  # the innermost first
        source = "".join(linecache.getlines(code.co_filename)) if named else ""
        for name in named:
            if re.search(rf"""["']{re.escape(name)}["']""", source):
                return name
    return None


def _codes(error: BaseException) -> Iterator[CodeType]:
    """Yield the code of an error's frames, the outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code
        trace = trace.tb_next
