"""Launching of the same command in several processes of this machine.

The processes meet in a private folder and exchange over the loopback interface: nothing listens to
the network. Nothing is restarted, and the processes report their own errors, once. Only a process
that was killed is reported here.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from gtacli.errors import Interrupted, RunError
from gtacli.runtime.processes import (
    LAUNCHER,
    LAUNCHER_PID,
    prepare_report,
    reported_status,
    safe_path,
)

# A process that was told to end may have to finish a step on the CPU and to write its state.
SHUTDOWN_SECONDS = 600.0
POLL_SECONDS = 0.1
LOOPBACK = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)


def launch(words: Sequence[str], nproc: int) -> int:
    """Run `gta WORDS` in `nproc` processes on this machine and return their exit status.

    Raises:
        RunError: a process was killed.
        Interrupted: a signal stopped the processes before they had a state to save.
    """
    command = [sys.executable, "-m", "gtacli", *words]
    # Only this user may enter it.
    with TemporaryDirectory(prefix="gta-", ignore_cleanup_errors=True) as path:
        folder = Path(path)
        prepare_report(folder)
        with _LaunchedProcesses() as group:
            for rank in range(nproc):
                group.start(command, _environment(folder, rank, nproc))
            failed = group.wait()
        status = reported_status(folder)
    if not failed:
        return 0
    if status is not None:
        return status
    if group.stopped:
        raise Interrupted("interrupted")
    raise RunError(_describe_failure(failed))


def _environment(folder: Path, rank: int, size: int) -> dict[str, str]:
    """Return the environment of a process: its rank, and where it meets the others."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    env = {**os.environ, **safe_path(), **{name: str(value) for name, value in numbers.items()}}
    env |= {LAUNCHER: str(folder), LAUNCHER_PID: str(os.getpid())}
    if LOOPBACK:  # with "=", NCCL takes no other interface whose name begins like it
        env |= {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": f"={LOOPBACK}"}
    env.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # as under torchrun
    return env


class _LaunchedProcesses:
    """Processes that end together; signals to this process are passed on to them.

    Attributes:
        stopped: number of the signal that has asked the processes to end.
    """

    def __init__(self) -> None:
        self.stopped: int | None = None
        self._processes: list[Popen[bytes]] = []
        self._before: dict[int, Any] = {}
        self._deadline = math.inf

    def __enter__(self) -> _LaunchedProcesses:
        if threading.current_thread() is threading.main_thread():
            for number in _forwarded():
                self._before[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *error: object) -> None:
        self._kill()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], env: dict[str, str]) -> None:
        """Start a process. In a session of its own: Ctrl-C reaches it only through this process."""
        process = Popen(command, env=env, start_new_session=True)
        self._processes.append(process)
        if self.stopped:  # meanwhile
            process.send_signal(self.stopped)

    def wait(self) -> dict[int, int]:
        """Wait until all have ended; if one fails, end the others.

        Returns: exit status or -signal by rank of those that failed first.
        """
        failed: dict[int, int] = {}
        while any(process.poll() is None for process in self._processes):
            if not failed and not self.stopped and (failed := self._failures()):
                self._send(signal.SIGTERM)
            if time.monotonic() > self._deadline:
                self._kill()
            time.sleep(POLL_SECONDS)
        return failed or self._failures()

    def _failures(self) -> dict[int, int]:
        codes = {rank: process.poll() for rank, process in enumerate(self._processes)}
        return {rank: code for rank, code in codes.items() if code}

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.stopped = number
        self._send(number)

    def _send(self, number: int) -> None:
        self._deadline = min(self._deadline, time.monotonic() + SHUTDOWN_SECONDS)
        # On Windows, Ctrl-C reaches all processes of the console by itself.
        if os.name == "posix" or number == signal.SIGTERM:
            for process in self._processes:
                process.send_signal(number)

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _forwarded() -> list[int]:
    """Return the signals that end a command, as far as the system has them; not those of nohup."""
    names = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if os.name == "posix" and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    return numbers


def _describe_failure(codes: dict[int, int]) -> str:
    """Describe why processes ended that reported nothing.

    Args:
        codes: exit status or -signal by rank. Others may have ended because of the first, by
            SIGTERM or with a status; they are not the cause.
    """
    causes = {r: c for r, c in codes.items() if c < 0 and c != -signal.SIGTERM} or codes
    rank, code = next(iter(causes.items()))
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
    return f"process {rank} {how}; `resume` continues from the last saved state"
