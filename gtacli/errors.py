"""The errors a user can meet, each with the exit status that is promised for it.

A message is one line: what is wrong, where, and what to do. Only the command line prints them.
"""


class GtaError(Exception):
    """Something the user can mend; found before the first step. Exit status 2."""

    exit_code = 2


class UsageError(GtaError):
    """Wrong usage or configuration. Exit status 2."""


class RunError(GtaError):
    """A run failed after it had begun. Exit status 3."""

    exit_code = 3


class PeerLost(RunError):
    """Another process of the run has ended: it, or who started both, knows why."""


class Interrupted(GtaError):
    """Stopped by the user or the system; the state was saved. Exit status 130."""

    exit_code = 130


def exit_status(error: BaseException) -> int:
    """The exit status of a command that ends with `error`."""
    if isinstance(error, GtaError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 3
