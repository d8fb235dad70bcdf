"""Ctrl-C and SIGTERM as a request that a loop honors between two steps."""

from __future__ import annotations

import select
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, BinaryIO, ClassVar


class StopSignal:
    """A context in which the first SIGINT or SIGTERM sets `requested`; a second one interrupts."""

    current: ClassVar[StopSignal | None] = None

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
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
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


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
