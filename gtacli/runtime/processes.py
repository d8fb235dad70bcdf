"""Which of a run's processes this one is, as torchrun says in the environment; who speaks for all.

Nothing here imports torch before it is needed: the command line asks it before anything else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

# Where `gta finetune --nproc` listens for what its processes have said: HOST:PORT.
LAUNCHER = "GTA_LAUNCHER"
SAID = "gta/said"


@dataclass(frozen=True)
class ProcessInfo:
    """A process among those of a run.

    Attributes:
        rank: its number, 0 to size - 1; number 0 writes and prints.
        size: processes on all nodes.
        local_rank, local_size: the same on its own node.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def process_info() -> ProcessInfo:
    """This process's place; alone where no launcher says otherwise."""
    env = os.environ
    if any(name not in env for name in ("MASTER_ADDR", "MASTER_PORT")):
        return ProcessInfo()
    try:
        rank, size, local_rank = (int(env[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return ProcessInfo(rank, size, local_rank, int(env.get("LOCAL_WORLD_SIZE", 1)))
    except (KeyError, ValueError):
        return ProcessInfo()


def claim_report(status: int, lost: bool = False) -> int | None:
    """Claim the word for this process, which is about to end with `status`.

    An error is said once: all processes may find the same one, and where one ends, the others fail
    for want of it. None: this process may speak. Else the status to end with in silence: that of
    the process that spoke first.

    Args:
        lost: the error is that another process has ended. If that one has not said why, it was
            killed, and a launcher of ours is the one to say so.
    """
    if process_info().size == 1:
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    env = os.environ
    launcher = env.get(LAUNCHER)
    host, _, port = (launcher or f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}").rpartition(":")
    key = f"{SAID}/{env.get('TORCHELASTIC_RESTART_COUNT', 0)}"  # a restarted job speaks anew
    mine = f"{status} {process_info().rank}"
    try:
        store = TCPStore(host, int(port), timeout=timedelta(seconds=5), wait_for_workers=False)
        if lost and launcher:
            return int(store.get(key).split()[0]) if store.check([key]) else status
        first = store.compare_set(key, "", mine).decode()
    except (RuntimeError, ValueError):
        return None  # nobody there to ask: better said twice than not at all
    return None if first == mine else int(first.split()[0])
