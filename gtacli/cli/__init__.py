"""The command line `gta`, the only package that prints or exits.

Exit status: 0 done, 1 some inputs failed, 2 wrong usage or config, 3 the run failed, 130
interrupted. Every error is one line on stderr; `--verbose` adds the traceback of an unexpected one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    from gtacli.cli.streams import drop_stdout
    from gtacli.runtime.interrupts import end_on_signal, interruptible

    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with interruptible():
            status = _prepare() if argv is None else 0
            status = status or _run(words)
    except BrokenPipeError:  # the reader (head, less) has gone
        drop_stdout()
        status = 0
    except KeyboardInterrupt:
        status = _fail("interrupted", 130)
    if argv is None:  # the interpreter ends next
        end_on_signal(status)
    return status


def _prepare() -> int:
    """Prepare the streams and imports of a process; return the exit status if it cannot run."""
    from gtacli.cli.streams import prepare_streams
    from gtacli.errors import GtaError
    from gtacli.runtime.light_imports import import_lightly
    from gtacli.runtime.processes import end_with_launcher

    end_with_launcher()
    import_lightly()
    try:
        prepare_streams()
    except GtaError as error:
        return _fail(error.message, error.exit_code)
    return 0


def _run(words: list[str]) -> int:
    import typer

    from gtacli.cli.lazy import usage_errors
    from gtacli.cli.spelling import describe
    from gtacli.errors import GtaError, Interrupted, PeerLost
    from gtacli.runtime.interrupts import was_interrupted
    from gtacli.runtime.limits import explain_limit
    from gtacli.runtime.surroundings import explain_surroundings

    try:
        status = _invoke(words)
        sys.stdout.flush()
        return status
    except GtaError as error:
        if was_interrupted() and not isinstance(error, Interrupted):
            return _fail("interrupted", 130)
        return _fail(describe(error), error.exit_code, isinstance(error, PeerLost))
    except usage_errors() as error:
        return _fail(_usage(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        raise
    except Exception as error:
        if was_interrupted():
            return _fail("interrupted", 130)
        known = explain_limit(error) or explain_surroundings(error)
        if known is not None:
            return _fail(describe(known), known.exit_code)
        what, status = _describe_unexpected(error)
        if "-v" in words or "--verbose" in words:
            import traceback

            from gtacli.cli.console import escape_lines

            print(escape_lines(traceback.format_exc()), end="", file=sys.stderr)
            return _fail(what, status)
        return _fail(f"{what} (--verbose shows where)", status)


def _describe_unexpected(error: Exception) -> tuple[str, int]:
    """Return what is said of an error that nothing has handled, and the exit status.

    A name that no file can have is wrong input, whatever meets it first.
    """
    import errno
    import os

    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str | bytes):
        name, why = os.fsdecode(error.filename), error.strerror[:1].lower() + error.strerror[1:]
        shown = name if len(name) <= 200 else f"{name[:100]}…{name[-40:]}"
        return f"{shown}: {why}", 2 if error.errno == errno.ENAMETOOLONG else 3
    return f"{type(error).__name__}: {error}".rstrip(": "), 3


def _invoke(words: list[str]) -> int:
    from gtacli.cli.lazy import root

    try:
        result = root().main(args=words, prog_name="gta", standalone_mode=False, obj=words)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # click makes a status 1 of it
            raise stop.__context__ from None
        result = stop.code
    return result if isinstance(result, int) else 0


def _usage(error: Exception) -> str:
    format_message = getattr(error, "format_message", error.__str__)
    text: str = format_message() or str(error)
    text = text[:1].lower() + text[1:].rstrip(".")
    context = getattr(error, "ctx", None)
    if not context:
        return text
    hint = _hint(getattr(error, "option_name", None), context.command_path)
    return f"{text}; {hint}see {context.command_path} --help"


def _hint(option: str | None, path: str) -> str:
    """Return which part has an option that a command does not have, as the start of a clause."""
    from gtacli.cli.options import DECLARED
    from gtacli.cli.part_flags import parts_with

    declared = DECLARED.get(path.partition(" ")[2])
    found = parts_with(declared.model, option) if declared is not None and option else None
    return f"{found}; " if found else ""


def _fail(text: str, status: int, lost: bool = False) -> int:
    from gtacli.runtime.escapes import escape_controls
    from gtacli.runtime.interrupts import cpu_time_is_up
    from gtacli.runtime.processes import claim_report

    if status == 130 and cpu_time_is_up():
        text += " (the limit of CPU time is reached: ulimit -t)"
    silent = claim_report(status, lost)
    if silent is not None:
        return silent
    print("error:", escape_controls(" ".join(text.split())), file=sys.stderr)
    return status
