"""One owner a folder: a lock that every command holds on the folder it writes into.

The lock is the operating system's (flock; on Windows a region of the file), so it ends with its
process, however that ends, and the number of the process does not matter. Over NFS it holds between
machines. The lock file says who holds it, for the message to others.

A file system may have no locks (Lustre mounted without `flock`, some FUSE ones). There the owner
touches the lock file every few seconds, and is dead when it no longer does, or at once when it was
a process of this machine that has ended.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from gtacli.errors import GtaError, UsageError
from gtacli.runtime.drafts import LOCK_PREFIX, remove_dead_drafts
from gtacli.runtime.process_identity import ProcessIdentity, own_identity
from gtacli.runtime.regular import check_regular, open_regular
from gtacli.runtime.strict_json import parse_json

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds to wait for an owner that may be about to end, or that writes a single file."""
TOUCH_SECONDS = 5.0
"""Time between two signs of life where the file system has no locks."""
POLL_SECONDS = 0.2
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_RECORD_TYPES = {
    "command": str, "pid": int, "host": str, "since": str, "space": str, "started": int,
}  # fmt: skip
_RECORD_BYTES = 4096
_LOCK_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_REGION = 1 << 30  # of the lock on Windows: what is locked there cannot be read


@contextmanager
def owned(
    folder: Path,
    command: str,
    part: str = "",
    option: str = "out",
    patience: float | None = None,
    shared: bool = False,
) -> Iterator[None]:
    """Own a folder, or a part of it, inside the context; remove dead processes' drafts first.

    The folder is created. If nothing is written into it, it is removed again.

    Args:
        command: name of the command, for the message to others.
        part: name of what is locked if the folder has several owners.
        option: that names the folder, for errors.
        patience: seconds to wait for another owner; math.inf: until it ends; default: `PATIENCE`.
        shared: owners of parts of the folder may be at work.

    Raises UsageError if another process owns it, GtaError if the folder cannot be written.
    """
    made = _make(folder, option)
    lock = _Lock(_lock_file(folder, part), command)
    try:
        _acquire(lock, folder, option, PATIENCE if patience is None else patience)
        if not part:
            remove_dead_drafts(folder, owned=not shared)
        yield
    finally:
        lock.release()
        for path in made:
            with suppress(OSError):  # it has content
                path.rmdir()


def is_owned(folder: Path, part: str = "") -> bool:
    """Return whether a process owns a folder, or a part of it; see `owned`. Changes nothing."""
    path = _lock_file(folder, part)
    return path.exists() and _Lock(path, "").is_held()


def remove_dead_lock(folder: Path, part: str = "") -> None:
    """Remove the lock file that an owner has left which was killed just before it removed it."""
    path = _lock_file(folder, part)
    if path.exists():
        with suppress(GtaError), owned(folder, "", part, patience=0, shared=True):
            pass


def locked_parts(folder: Path, prefix: str) -> list[str]:
    """Return the parts of a folder, by the beginning of their names, that have a lock file.

    Its owner may be dead: see `is_owned`.
    """
    whole = f"{LOCK_PREFIX}-"
    return [path.name.removeprefix(whole) for path in folder.glob(f"{whole}{prefix}*")]


def _lock_file(folder: Path, part: str) -> Path:
    return folder / (f"{LOCK_PREFIX}-{part}" if part else LOCK_PREFIX)


def create_first(paths: Iterable[Path], option: str = "out") -> Path:
    """Create the first of these folders that does not exist, so that no other process gets it.

    Its owner removes it again if nothing is written into it.

    Raises GtaError if it cannot be created.
    """
    for path in paths:
        absent = _absent(path)
        _make(path.parent, option)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(path, error, option) from error
        _created[path] = absent
        return path
    raise GtaError("every name of a new folder is taken", option=option)


_created: dict[Path, list[Path]] = {}
"""The absent folders that `create_first` has created, by the innermost of them."""


def _make(folder: Path, option: str) -> list[Path]:
    """Create a folder; return those of it and its parents that were absent, innermost first."""
    absent = _created.pop(folder, None) or _absent(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{folder} is a file", option=option) from None
    except OSError as error:
        raise _unwritable(folder, error, option) from error
    return absent


def _absent(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _acquire(lock: _Lock, folder: Path, option: str, patience: float) -> None:
    deadline, waiting = time.monotonic() + patience, False
    while True:
        try:
            if lock.acquire():
                return
        except OSError as error:
            raise _unwritable(folder, error, option) from error
        holder = lock.holder()
        if time.monotonic() >= deadline:
            text = f"{folder} is in use by {holder}; wait until it ends, stop it, or choose another"
            raise UsageError(f"{text} folder", option=option)
        if patience == math.inf and not waiting:
            waiting = True
            log.info("waiting for %s, which writes to %s", holder, folder)
        time.sleep(POLL_SECONDS)


def _unwritable(folder: Path, error: OSError, option: str) -> GtaError:
    return GtaError(f"cannot write to {folder} ({error.strerror or error})", option=option)


class _Lock:
    """The lock of one lock file."""

    def __init__(self, path: Path, command: str) -> None:
        self.path, self.command = path, command
        self._file: int | None = None
        self._pulse: threading.Event | None = None

    def acquire(self) -> bool:
        """Try to lock; return whether it succeeded. Raises OSError."""
        while True:
            file = _open(self.path)
            try:
                locked = _lock(file)
                if locked is None:
                    os.close(file)
                    return self._claim()
                if locked and _is_same(file, self.path):
                    self._file = file
                    _held.add(self)
                    _write_record(file, self.command)
                    return True
            except BaseException:
                self.release()
                with suppress(OSError):
                    os.close(file)
                raise
            os.close(file)
            if not locked:
                return False
            # Its owner has removed the file between our opening and locking it.

    def release(self) -> None:
        """Unlock and remove the lock file."""
        if self._pulse is not None:
            self._pulse.set()
            self._pulse = None
            self.path.unlink(missing_ok=True)
        if self._file is not None:
            if os.name == "posix":  # while it is locked: nobody else's can be removed
                self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
            _held.discard(self)
            if os.name != "posix":
                with suppress(OSError):
                    self.path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Close the file in a forked child, where it would outlive the owner."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def is_held(self) -> bool:
        """Return whether a process holds the lock; a lock file that is there stays."""
        try:
            file = os.open(self.path, _LOCK_FLAGS)
        except OSError:
            return False
        try:
            locked = _lock(file)
            return self._is_alive() if locked is None else not locked
        except OSError:
            return False
        finally:
            os.close(file)  # which unlocks it

    def holder(self) -> str:
        """Describe the process that holds the lock."""
        record = _read_record(self.path)
        if record is None:
            return "another process"
        who = f"gta {record['command']} (process {record['pid']} on {record['host']}"
        return f"{who}, since {record['since']})"

    def _claim(self) -> bool:
        """Lock by a record that is touched again and again; see the module."""
        if self._is_alive():
            return False
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _write_record(file, self.command)
        finally:
            os.close(file)
        time.sleep(POLL_SECONDS)  # another process may have claimed it in the same moment
        record = _read_record(self.path)
        if record is None or _identity(record) != own_identity():
            return False
        self._pulse = threading.Event()
        threading.Thread(target=_touch, args=(self.path, self._pulse), daemon=True).start()
        return True

    def _is_alive(self) -> bool:
        """Return whether the owner by the record still runs; may wait for its sign of life."""
        record = _read_record(self.path)
        if record is None:
            return False
        dead = _identity(record).is_dead()
        if dead is not None:
            return not dead
        log.info("checking whether %s is still at work", self.holder())
        before, end = _modified(self.path), time.monotonic() + 3 * TOUCH_SECONDS
        while time.monotonic() < end:
            if _modified(self.path) != before:
                return True
            time.sleep(POLL_SECONDS)
        return False


_held: set[_Lock] = set()


def _after_fork() -> None:
    for lock in _held:
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _open(path: Path) -> int:
    """Open a lock file, and create it; never anything but a regular file."""
    file = os.open(path, _LOCK_FLAGS | os.O_CREAT, 0o666)
    try:
        check_regular(path)
    except FileNotFoundError:  # removed meanwhile, which the caller notices
        pass
    except OSError:
        os.close(file)
        raise
    return file


def _lock(file: int) -> bool | None:
    """Lock an open file; return whether that succeeded, None on a file system without locks."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(file, _REGION, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _write_record(file: int, command: str) -> None:
    space, pid, started = own_identity()
    record = {
        "command": command,
        "pid": pid,
        "host": platform.node(),
        "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "space": space,
        "started": started,
    }
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, json.dumps(record).encode())


def _read_record(path: Path) -> dict[str, Any] | None:
    """Return a lock file's record; None for none, or for one that is being written."""
    try:
        with open_regular(path) as file:
            record = parse_json(file.read(_RECORD_BYTES))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or any(
        type(record.get(key)) is not kind or len(str(record[key])) > _RECORD_BYTES // 8
        for key, kind in _RECORD_TYPES.items()
    ):
        return None
    if not 0 < record["pid"] < 1 << 31:  # of no process
        return None
    return {key: record[key] for key in _RECORD_TYPES}


def _identity(record: dict[str, Any]) -> ProcessIdentity:
    return ProcessIdentity(record["space"], record["pid"], record["started"])


def _modified(path: Path) -> int:
    try:
        with path.open("rb") as file:  # over NFS, opening asks the server
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return 0


def _touch(path: Path, stop: threading.Event) -> None:
    while not stop.wait(TOUCH_SECONDS):
        with suppress(OSError):
            os.utime(path)
