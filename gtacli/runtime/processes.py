"""The rank of this process among those of a run, and the choice of the one that reports an error.

torch is imported late: the command line needs the rank before anything else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

# HOST:PORT of the store in which `launch` finds the status that its processes have reported.
LAUNCHER = "GTA_LAUNCHER"
REPORTED = "gta/reported"


@dataclass(frozen=True)
class ProcessInfo:
    """The rank of a process, as torchrun sets it in the environment.

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
    if any(name not in env for name in ("MASTER_ADDR", "MASTER_PORT")):
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
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    env = os.environ
    launcher = env.get(LAUNCHER)
    host, _, port = (launcher or f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}").rpartition(":")
    key = f"{REPORTED}/{env.get('TORCHELASTIC_RESTART_COUNT', 0)}"  # one report per restart
    mine = f"{status} {process_info().rank}"
    try:
        store = TCPStore(host, int(port), timeout=timedelta(seconds=5), wait_for_workers=False)
        if lost and launcher:
            return int(store.get(key).split()[0]) if store.check([key]) else status
        first = store.compare_set(key, "", mine).decode()
    except (RuntimeError, ValueError):
        return None  # no store to ask: two reports are better than none
    return None if first == mine else int(first.split()[0])
