"""The cores and the memory that this process may use; the processes of a run share them equally."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gtacli.runtime.process_memory import address_space_limit, read_kilobytes, status_bytes
from gtacli.runtime.processes import process_info

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use: those of the machine, or its container's time."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota()
    cores = cores if quota is None else min(cores, math.ceil(quota))
    return max(1, cores // process_info().local_size)


def cpu_seconds() -> float:
    """Return the CPU time of all threads of this process, and of processes it has waited for."""
    return sum(os.times()[:4])


def available_memory() -> int | None:
    """Return the free bytes for this process; None if unknown.

    They are limited by the machine, its container and the process's address space (ulimit -v).
    """
    shared = [value for value in (_machine(), _container()) if value is not None]
    free = [min(shared) // process_info().local_size] if shared else []
    own = _address_space()
    return min(free if own is None else [*free, own], default=None)


def resident_memory() -> int:
    """Return the bytes of this process in memory; 0 if unknown."""
    return status_bytes("VmRSS") or 0


def peak_memory() -> int:
    """Return the largest number of bytes of this process in memory so far; 0 if unknown."""
    peak = status_bytes("VmHWM")  # of this process alone; ru_maxrss starts at the parent's
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory() -> None:
    """Let `peak_memory` begin anew, where the system can do that (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _machine() -> int | None:
    return read_kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _container() -> int | None:
    """Return what is free within the limits of the control groups, versions 2 and 1."""
    found = [
        *(_free_in(g, "memory.max", "memory.current", "inactive_file") for g in _groups("")),
        *(
            _free_in(g, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            for g in _groups("memory")
        ),
    ]
    return min((value for value in found if value is not None), default=None)


def _quota() -> float | None:
    """Return the cores whose time the control groups grant, versions 2 and 1; None: no limit."""
    found = []
    for group, names in (
        *((g, ("cpu.max",)) for g in _groups("")),
        *((g, ("cpu.cfs_quota_us", "cpu.cfs_period_us")) for g in _groups("cpu")),
    ):
        with suppress(OSError, ValueError):  # "max" if there is no limit, or -1
            quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
            if quota > 0 and period > 0:
                found.append(quota / period)
    return min(found, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups of this process, its own one first, then the upper.

    Args:
        controller: of version 1, "memory" or "cpu"; "" for version 2, which has one tree.
    """
    top = _CGROUP / controller
    inner = Path()
    with suppress(OSError, ValueError):
        for line in _OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                inner = Path(path.lstrip("/"))
    if ".." not in inner.parts:  # as in a container that has left its group
        yield from (top / part for part in (inner, *inner.parents) if part != Path())
    yield top


def _free_in(folder: Path, limit: str, used: str, cache: str) -> int | None:
    try:
        # "max" if there is no limit; version 1 has a number beyond all memory.
        most = int((folder / limit).read_text())
        taken = int((folder / used).read_text())
    except (OSError, ValueError):
        return None
    return max(0, most - max(0, taken - _reclaimable(folder / "memory.stat", cache)))


def _reclaimable(path: Path, key: str) -> int:
    """Return the bytes of files in memory, which are given up for others."""
    try:
        rows = dict(line.split() for line in path.read_text().splitlines())
        return int(rows.get(key, 0))
    except (OSError, ValueError):
        return 0


def _address_space() -> int | None:
    limit, used = address_space_limit(), status_bytes("VmSize")
    return None if limit is None or used is None else max(0, limit - used)
