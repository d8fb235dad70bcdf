"""The cores and the memory that this process may use; the processes of a run share them equally."""

import os
from pathlib import Path

from gtacli.runtime.processes import process_info

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // process_info().local_size)


def available_memory() -> int | None:
    """Return the free bytes for this process, of the machine or its container; None if unknown."""
    free = [value for value in (_machine(), _container()) if value is not None]
    return min(free) // process_info().local_size if free else None


def _machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _container() -> int | None:
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # "max" if there is no limit
        return max(0, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        return None
