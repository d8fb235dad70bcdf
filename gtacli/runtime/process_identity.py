"""The identity of a process beyond its number, by which others find out whether it still runs.

Process numbers repeat: after a restart, on other machines, and in every container.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple


class ProcessIdentity(NamedTuple):
    """A process among all that may use a shared file system.

    Attributes:
        space: digest of the host, its start, and the namespace of its process numbers.
        pid: number of the process.
        started: its start in clock ticks since that of the system; 0 where that is unknown.
    """

    space: str
    pid: int
    started: int

    def is_dead(self) -> bool | None:
        """Return whether the process has ended; None for a process of another space."""
        if self.space != _space():
            return None
        if self.pid == os.getpid():
            return self != own_identity()
        if os.name != "posix":  # where a signal 0 would end the process
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            pass
        return self.started != _started(self.pid)


def own_identity() -> ProcessIdentity:
    """Return the identity of this process."""
    return _identity(os.getpid())


@cache
def _identity(pid: int) -> ProcessIdentity:
    return ProcessIdentity(_space(), pid, _started(pid))


@cache
def _space() -> str:
    parts = [platform.node()]
    if sys.platform == "linux":
        try:
            parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
            parts.append(os.readlink("/proc/self/ns/pid"))
        except OSError:
            pass
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> int:
    """Return field 22 of /proc/PID/stat, see proc(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
