"""The memory of this process, as Linux tells it, and its limit (ulimit -v)."""

from __future__ import annotations

from pathlib import Path

_NEAR = 64 << 20
"""Bytes that a library may ask for at a time, and not get, below the limit."""


def status_bytes(key: str) -> int | None:
    """Return a number of bytes that Linux tells about this process; None if unknown."""
    return read_kilobytes(Path("/proc/self/status"), key)


def read_kilobytes(path: Path, key: str) -> int | None:
    """Return the bytes of a line `KEY: N kB`; None if there is none."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def address_space_limit() -> int | None:
    """Return the limit of this process's address space in bytes; None if there is none."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def is_address_space_full() -> bool:
    """Return whether this process has come close to the limit of its address space."""
    limit, peak = address_space_limit(), status_bytes("VmPeak")
    if limit is None or peak is None:
        return False
    return peak > limit - max(limit // 20, _NEAR)
