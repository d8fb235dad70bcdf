"""A promise that a part makes, and the check whether it keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import SkipTest

import torch

from gtacli.errors import GtaError
from gtacli.runtime import rng


class BrokenPromise(AssertionError):
    """A promise that a part does not keep; the message is one line."""


class NotApplicable(SkipTest):
    """A promise that cannot be checked here, or that the part does not make; pytest skips it."""


@dataclass(frozen=True)
class Check:
    """A check of one promise; call it.

    Attributes:
        part: the class that makes the promise.
        promise: what it promises, in words: "its penalty is a finite scalar".
        run: the check itself.
    """

    part: type
    promise: str
    run: Callable[[], None]

    def __str__(self) -> str:
        return self.promise

    def __call__(self) -> None:
        """Check the promise; the random numbers and the default dtype of the process are restored.

        Raises BrokenPromise with one line, or NotApplicable.
        """
        state, dtype = rng.capture(), torch.get_default_dtype()
        try:
            self.run()
        except (BrokenPromise, NotApplicable):
            raise
        except (Exception, SystemExit) as error:  # the part's code can raise anything
            raise BrokenPromise(f"it raises {describe(error)}") from error
        finally:
            rng.restore(state)
            torch.set_default_dtype(dtype)


def describe(error: BaseException) -> str:
    """Return the type and the text of an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def require(kept: object, broken: str) -> None:
    """Raise BrokenPromise with the text `broken` unless `kept`."""
    if not kept:
        raise BrokenPromise(" ".join(broken.split()))


@contextmanager
def clear_error(about: str, words: Sequence[str] = ()) -> Iterator[None]:
    """Require a clear error of what runs inside: a GtaError of one line with all of `words`."""
    try:
        yield
    except GtaError as error:
        require_clear(error, about, words)
    except Exception as error:
        raise BrokenPromise(f"{about}: it raises {describe(error)}, not a GtaError") from error
    else:
        raise BrokenPromise(f"{about}: it raises no error")


@contextmanager
def works_or_says(about: str) -> Iterator[None]:
    """Require that what runs inside works, or raises a clear error."""
    try:
        yield
    except BrokenPromise as error:
        raise BrokenPromise(f"{about}: {error}") from error
    except GtaError as error:
        require_clear(error, about)
    except Exception as error:
        raise BrokenPromise(
            f"{about}: it raises {describe(error)}; if it cannot work, it must raise a "
            "gtacli.errors.UsageError that says so"
        ) from error


def require_clear(error: GtaError, about: str, words: Sequence[str] = ()) -> None:
    """Require that an error's message is a line in words and has all of `words`."""
    text = str(error)
    require(error.message.strip(), f"{about}: its error has no text")
    require(len(text) <= 600, f"{about}: its error has {len(text)} characters; one line is enough")
    require("Traceback" not in text, f"{about}: its error contains a traceback")
    missing = [word for word in words if word not in text]
    require(not missing, f"{about}: its error does not name {', '.join(missing)}: {text}")
