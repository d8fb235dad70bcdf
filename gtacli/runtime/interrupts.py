"""Ctrl-C and SIGTERM: outside of loops they interrupt, a loop honors them between two steps.

So does the signal that comes a little before the CPU time of the process is used up (ulimit -t).
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, BinaryIO, ClassVar

_SIGINT_SIGTERM = (signal.SIGINT, signal.SIGTERM)
_SIGXCPU: signal.Signals | None = getattr(signal, "SIGXCPU", None)  # Windows has none
_SIGNALS = _SIGINT_SIGTERM if _SIGXCPU is None else (*_SIGINT_SIGTERM, _SIGXCPU)
_set_mask: Any = getattr(signal, "pthread_sigmask", None)
_SPARE_SECONDS = 10
_AGAIN_SECONDS = 0.1


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt inside, as Ctrl-C does; `was_interrupted` tells it.

    Python drops an exception that is raised in a finalizer or a callback of the collector, and
    writes its traceback: an interrupt that is lost there is repeated a moment later.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    hook = sys.unraisablehook
    on_interrupt = signal.getsignal(signal.SIGINT)
    _interrupted[:] = []

    def repeat(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            threading.Timer(_AGAIN_SECONDS, _interrupt_main).start()
        else:
            hook(lost)

    sys.unraisablehook = repeat
    signal.signal(signal.SIGTERM, _interrupt)
    if _SIGXCPU is not None:
        signal.signal(_SIGXCPU, _interrupt)
        _spare_cpu_time()
    if on_interrupt == signal.default_int_handler:  # not ignored, as in a shell's background
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, on_interrupt)
        if _SIGXCPU is not None:
            signal.signal(_SIGXCPU, signal.SIG_DFL)
        sys.unraisablehook = hook


@contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process at once inside, in a call that no Python code can interrupt."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def keep_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM that a library replaces inside by one that exits.

    An exit inside, which a signal may have caused, raises KeyboardInterrupt.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def end_on_signal(status: int) -> None:
    """Let a signal end this process at once with `status`, since all is done but the clean-up."""
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(status))


def ignore_signals() -> None:
    """Ignore Ctrl-C and SIGTERM in a worker process: they reach the whole group of processes.

    The main process handles them, and may need its workers before it can save.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if _set_mask is not None:
        _set_mask(signal.SIG_UNBLOCK, _SIGNALS)


@contextmanager
def signals_held(numbers: Collection[signal.Signals] = _SIGNALS) -> Iterator[None]:
    """Hold the signals back that `ignore_signals` ignores, to start processes that will call it.

    These inherit it, so that no signal ends them before. In this process the signals come
    afterwards. Windows cannot do it.

    Args:
        numbers: of other signals.
    """
    if _set_mask is None:
        yield
        return
    before = _set_mask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        _set_mask(signal.SIG_SETMASK, before)


def _interrupt_main() -> None:
    if os.name == "posix":  # a signal ends a call of the system, too
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _spare_cpu_time() -> None:
    """Let the limit of CPU time be told a little before the system kills the process.

    `ulimit -t` sets both limits, the one that is told and the one that kills, to the same second.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY and soft == hard:
        spare = max(1, min(_SPARE_SECONDS, hard // 10))
        resource.setrlimit(resource.RLIMIT_CPU, (max(0, hard - spare), hard))


def cpu_time_is_up() -> bool:
    """Return whether the limit of CPU time has interrupted this process."""
    return _SIGXCPU in _interrupted


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == _SIGXCPU and number in _interrupted:  # it is repeated every second
        return
    _interrupted.append(number)  # no lock: another signal may come here too
    raise KeyboardInterrupt


_interrupted: list[int] = []


def was_interrupted() -> bool:
    """Return whether a signal has raised KeyboardInterrupt since `interruptible` began.

    A library may have made an error of its own of it, which then says nothing.
    """
    return bool(_interrupted)


class StopSignal:
    """A context in which the first SIGINT or SIGTERM sets `requested`; a second one interrupts."""

    current: ClassVar[StopSignal | None] = None

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._request)
            StopSignal.current = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if StopSignal.current is self:
            StopSignal.current = None

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == _SIGXCPU:
            _interrupted.append(number)
        elif self.requested:
            _interrupt(number, frame)
        self.requested = True


def stop_is_requested() -> bool:
    """Return whether a stop is requested of the work in progress."""
    return StopSignal.current is not None and StopSignal.current.requested


def wait_readable(stream: BinaryIO) -> bool:
    """Wait until a read would not block; return False if a stop is requested meanwhile.

    A read itself is resumed after a signal: a loop that waits for its input could not stop.
    """
    while StopSignal.current is not None:
        if StopSignal.current.requested:
            return False
        try:
            if select.select([stream], [], [], 0.1)[0]:
                return True
        except (OSError, ValueError):  # no file descriptor, or none that can be waited for
            return True
    return True
