"""The errors a user can meet, each with the exit status that is promised for it.

    GtaError            2    the user's input is invalid; raised before any computation starts
      UsageError        2    wrong usage or configuration
      ImageError        2    an image cannot be read (in `gtacli.images.decode`)
      RunError          3    a run failed after it had started
        PeerLost        3    another process of the run has ended
      Interrupted     130    stopped by the user or the system; the state was saved

A message is one line: what is wrong, where, and what to do. It names options as the configs do, in
backticks where they stand in the text (`` `image_size` ``, `` `guide=none` ``), and the one it is
about as `option`; `source` says where that option's value was written. Only the command line prints
errors, and only it knows how a flag is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class GtaError(Exception):
    """The user's input is invalid; raised before any computation starts. Exit status 2.

    Attributes:
        message: one line without the option's name.
        option: key of the config that the message is about ("image_size"), or None.
        source: where the value was written, if it was no argument of this call: "recipe my.toml",
            or an environment variable, which names the option itself; then `option` is None.
    """

    exit_code = 2

    def __init__(
        self, message: str, *, option: str | None = None, source: str | None = None
    ) -> None:
        # One line also where a name or a library's text in it has line breaks.
        message = re.sub(r"\s*[\r\n]+\s*", " ", message)
        super().__init__(message)
        self.message = message
        self.option = option
        self.source = source

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.source, self.option, self.message)))

    def rename(self, default: str | None, names: dict[str, str]) -> None:
        """Replace option names, in `option` and in the message; `default` is set where none is."""
        self.option = names.get(self.option, self.option) if self.option else default
        for old, new in names.items():
            self.message = re.sub(rf"`{old}(?=[=`])", f"`{new}", self.message)
        self.args = (self.message,)


class UsageError(GtaError):
    """Wrong usage or configuration. Exit status 2."""


class RunError(GtaError):
    """A run failed after it had started. Exit status 3."""

    exit_code = 3


class PeerLost(RunError):
    """Another process of the run has ended; that process, or its launcher, reports the cause."""


class Interrupted(GtaError):
    """The user or the system stopped the run; its state was saved. Exit status 130."""

    exit_code = 130


@contextmanager
def errors_about(default: str | None = None, /, **names: str) -> Iterator[None]:
    """Report errors raised inside as errors about other options.

    A helper knows its own parameters; its caller knows which option of the user they came from:
    ``with errors_about("teacher", model="teacher", image_size="teacher_size"): load_model(...)``.

    Args:
        default: the option of errors that name none.
        names: other names for options, by the helper's name.
    """
    try:
        yield
    except GtaError as error:
        error.rename(default, names)
        raise


_CLASS_NAME = re.compile(r"\b[\w.]*(?:Error|Exception|Warning)\b(\(\))?:?\s*")


def reason_of_library(error: BaseException) -> str:
    """Return the text of a library's error in one line, without names of classes of errors."""
    said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)[:2000]
    text = " ".join(_CLASS_NAME.sub("", said).split())
    return text[:300] or "it gives no reason"


def exit_status(error: BaseException) -> int:
    """Return the exit status of a command that ends with `error`."""
    if isinstance(error, GtaError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 3
