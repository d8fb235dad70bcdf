"""The rank of this process among those of a run, and the choice of the one that reports an error.

torch is imported late: the command line needs the rank before anything else.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from gtacli.runtime.interrupts import ignore_signals
from gtacli.runtime.limits import WORKER_STATUS, error_number

# Path of the private folder in which the processes that `launch` has started meet, and its id.
LAUNCHER = "GTA_LAUNCHER"
LAUNCHER_PID = "GTA_LAUNCHER_PID"
_REPORTED = "gta/reported"
_PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h
_WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class ProcessInfo:
    """The rank of a process, as its launcher sets it in the environment.

    Attributes:
        rank: 0 to size - 1; process 0 writes and prints.
        size: number of processes on all nodes.
        local_rank, local_size: rank and number of processes on its own node.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def process_info() -> ProcessInfo:
    """Return the rank of this process; rank 0 of 1 without a launcher."""
    env = os.environ
    if LAUNCHER not in env and not {"MASTER_ADDR", "MASTER_PORT"} <= env.keys():
        return ProcessInfo()
    try:
        rank, size, local_rank = (int(env[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return ProcessInfo(rank, size, local_rank, int(env.get("LOCAL_WORLD_SIZE", 1)))
    except (KeyError, ValueError):
        return ProcessInfo()


def claim_report(status: int, lost: bool = False) -> int | None:
    """Elect the one process that reports an error.

    All processes may find the same error, and if one ends, the others fail for that reason.

    Args:
        status: exit status with which this process is about to end.
        lost: the error is that another process has ended. If that one reported nothing, it was
            killed, and `launch` reports it.

    Returns:
        None if this process is to report its error; otherwise the status of the process that
        reported first, with which this one ends in silence.
    """
    if process_info().size == 1:
        return None
    folder = launcher_folder()
    if folder is None:
        return _claim_in_store(status)
    if lost:
        first = reported_status(folder)
        return status if first is None else first
    mine = folder / f"report-{status}-{process_info().rank}"
    try:
        (folder / "report").rename(mine)
    except OSError:
        return None if mine.exists() else reported_status(folder)
    return None


def launcher_folder() -> Path | None:
    """Return the private folder of the processes that `launch` has started; None under torchrun."""
    path = os.environ.get(LAUNCHER)
    return Path(path) if path else None


def prepare_report(folder: Path) -> None:
    """Let one process claim the report: it renames the file, with its status and rank in the name.

    A rename succeeds for one process only, and its result is never seen half written.
    """
    (folder / "report").touch()


def reported_status(folder: Path) -> int | None:
    """Return the exit status of the process that has claimed the report, or None."""
    for path in folder.glob("report-*"):
        return int(path.name.split("-")[1])
    return None


def end_with_launcher() -> None:
    """Let this process get SIGTERM when the `launch` that has started it ends; else do nothing."""
    pid = os.environ.get(LAUNCHER_PID)
    if pid is not None:
        _end_with_parent(int(pid), signal.SIGTERM)


def begin_worker() -> None:
    """Prepare a process that only works for its parent: no signal ends it, its parent's end does.

    Called by the worker itself, whose parent started it from a thread that lives on.
    """
    from multiprocessing.queues import Queue  # late, as most commands start no worker

    ignore_signals()
    # What the threads of `multiprocessing` cannot send is only printed, and waited for for ever.
    sys.excepthook = lambda kind, error, trace: _end_worker(error)
    Queue._on_queue_feeder_error = staticmethod(  # type: ignore[attr-defined]
        lambda error, item: _end_worker(error)
    )
    if os.name == "posix":
        _end_with_parent(_parent_pid(), signal.SIGKILL)


@cache
def kill_workers_at_exit() -> None:
    """Let this process kill the workers that are left when it exits.

    Python sends them SIGTERM, which they ignore, and waits for ever for one that is stuck because
    another one was killed.
    """
    import multiprocessing.util  # noqa: F401  # its own clean-up has to be registered before

    atexit.register(_kill_workers)


def ignore_ends_of_workers() -> Callable[[], object]:
    """Let the end of a worker raise no error anywhere; return a function that ends this.

    torch's handler of the signal raises one where the program just is, for each worker that fails.
    """
    before: Any = signal.SIG_DFL
    for _ in range(2):  # the handler may raise its error in here, too
        with suppress(RuntimeError, ValueError, AttributeError):  # a thread; Windows
            before = signal.getsignal(signal.SIGCHLD)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return lambda: signal.signal(signal.SIGCHLD, before)
    return lambda: None


def _kill_workers() -> None:
    from multiprocessing import active_children

    ignore_ends_of_workers()
    for worker in active_children():
        if worker.daemon:
            worker.kill()


def _end_worker(error: BaseException) -> None:
    """End this process with a status that tells its parent why.

    A parent that has broken off the connection is about to end, and must hear of no failure then;
    one that still waits notices that its worker has gone.
    """
    if isinstance(error, ConnectionError):
        os._exit(0)
    number = error_number(error)
    os._exit(1 if number is None else WORKER_STATUS + number)


def _parent_pid() -> int:
    """Return the id of the process that has started this worker, which may have ended since.

    A worker of a fork server is the server's child, and the server ends with the one that uses it.
    """
    from multiprocessing import current_process, get_start_method, parent_process

    method = getattr(current_process(), "_start_method", None) or get_start_method()
    parent = parent_process()
    if parent is None or parent.pid is None or method == "forkserver":
        return os.getppid()
    return parent.pid


def _end_with_parent(pid: int, number: int) -> None:
    """Let this process get a signal when its parent, process `pid`, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != pid:  # it has ended already
            os.kill(os.getpid(), number)
    elif os.name == "posix":
        threading.Thread(target=_watch_parent, args=(pid, number), daemon=True).start()


def _watch_parent(pid: int, number: int) -> None:
    while os.getppid() == pid:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), number)


def _claim_in_store(status: int) -> int | None:
    """Claim the report in the store of torchrun; see `claim_report`."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    env = os.environ
    key = f"{_REPORTED}/{env.get('TORCHELASTIC_RESTART_COUNT', 0)}"  # one report per restart
    mine = f"{status} {process_info().rank}"
    timeout = timedelta(seconds=5)
    try:
        port = int(env["MASTER_PORT"])
        store = TCPStore(env["MASTER_ADDR"], port, timeout=timeout, wait_for_workers=False)
        first = store.compare_set(key, "", mine).decode()
    except (RuntimeError, ValueError):
        return None  # no store to ask: two reports are better than none
    return None if first == mine else int(first.split()[0])


def safe_path() -> dict[str, str]:
    """Return variables with which a new interpreter imports nothing from the current folder.

    That may be anybody's, with a file named like a package. Empty where this process was itself
    started from there (`python -m gtacli` in a checkout that is not installed).
    """
    return {} if sys.path[:1] == [os.getcwd()] else {"PYTHONSAFEPATH": "1"}
