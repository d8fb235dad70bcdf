"""Errors of a machine's limits as one line: memory, open files, processes, sizes of files."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from gtacli.errors import GtaError, RunError
from gtacli.runtime.process_memory import is_address_space_full

_DEVICE_MEMORY = re.compile(
    r"(CUDA|HIP|MPS backend|CUDA error:) out of memory|CUBLAS_STATUS_ALLOC_FAILED"
)
_HOST_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't|not enough)|cannot allocate memory|std::bad_alloc|"
    r"unable to (mmap|allocate shared memory)|failed to map segment|"
    r"could not create a (primitive|memory object)$",  # of oneDNN
    re.IGNORECASE,
)
_WORKER = re.compile(r"DataLoader worker \(pid")
_EXIT_CODE = re.compile(r"exited unexpectedly with exit code (\d+)")
_HOW = re.compile(r"DataLoader worker .*(exit code \d+|killed by signal)")
_NUMBER = re.compile(r": ([^:]+) \((\d+)\)$")  # of torch's own errors
_HANDLES = re.compile("items of ancdata")  # a file of another process could not be opened here
WORKER_STATUS = 100
"""Added to the number of the system's error that ends a process which loads images."""
_THREADS = re.compile(r"can't start new thread|pthread_create failed", re.IGNORECASE)


def explain_limit(
    error: BaseException,
    batch_size: int | None = None,
    workers: int | None = None,
    fit_memory: bool | None = None,
) -> RunError | None:
    """Return an error that says which limit was met and what fits; None for any other error.

    Args:
        batch_size: images that were processed at a time; None: the command has no such option.
        workers: processes or threads that load images; None: chosen by the program.
        fit_memory: whether the batch was chosen to fit; None: the command has no such option.
    """
    # torch says last that a worker has ended, and before that how.
    for one in sorted(_causes(error), key=lambda one: _HOW.search(str(one)) is None):
        what = _describe(one, batch_size, workers, fit_memory)
        if what is not None:
            return RunError(what)
    # Libraries fail in any way then, which no text tells from other failures.
    if not isinstance(error, GtaError) and is_address_space_full():
        smaller = _smaller_batch(batch_size, fit_memory)
        return RunError(f"the memory that a process may have (ulimit -v) is full{smaller}")
    return None


def explain_unshared(error: BaseException) -> str | None:
    """Return why processes cannot share work here, as a clause; None for any other error.

    Such a process can do all the work itself: it lacks shared memory, handles or processes.
    """
    for one in _causes(error):
        number, text = error_number(one), str(one)
        if number == errno.ENOSPC:
            return "the memory that processes share (/dev/shm) is full"
        if number == errno.EFBIG:
            return "the limit of files (ulimit -f) is too small for the memory that processes share"
        if number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSYS):
            return f"no memory can be shared among processes ({os.strerror(number)})"
        if number in (errno.EMFILE, errno.ENFILE):
            return "too many files are open for more processes (ulimit -n)"
        if number == errno.EAGAIN or _THREADS.search(text):
            return "no more processes can be started (ulimit -u)"
    return None


def is_memory_error(error: BaseException) -> bool:
    """Return whether a program or a device has no memory left."""
    for one in _causes(error):
        text, number = str(one), error_number(one)
        known = _DEVICE_MEMORY.search(text) or _HOST_MEMORY.search(text)
        if known or _is_torchs(one) or isinstance(one, MemoryError) or number == errno.ENOMEM:
            return True
    return False


def error_number(error: BaseException) -> int | None:
    """Return the system's number of an error, also of one that torch or a worker has passed on."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if _HANDLES.search(text):
        return errno.EMFILE
    if (code := _EXIT_CODE.search(text)) is not None:
        return int(code[1]) - WORKER_STATUS if int(code[1]) > WORKER_STATUS else None
    named = _NUMBER.search(text)
    return int(named[2]) if named is not None and os.strerror(int(named[2])) == named[1] else None


def _is_torchs(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch is not imported for it


def _describe(
    error: BaseException, batch_size: int | None, workers: int | None, in_parts: bool | None
) -> str | None:
    text = str(error)
    number, of_worker = error_number(error), bool(_WORKER.search(text))
    if _DEVICE_MEMORY.search(text) or _is_torchs(error):
        return f"the memory of the GPU is full{_smaller_batch(batch_size, in_parts)}"
    if (of_worker and number is None) or type(
        error
    ).__name__ == "BrokenProcessPool":  # not imported for it
        signal = re.search(r"killed by signal: (\w+)", text)
        how = f" ({signal[1]})" if signal else ""
        return f"a process that loads images has ended{how}, mostly for lack of memory; " + (
            _fewer_workers(workers)
        )
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _HOST_MEMORY.search(text):
        return f"the memory is full{_smaller_batch(batch_size, in_parts)}"
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many files are open; raise the limit (ulimit -n 4096), or " + (
            _fewer_workers(workers)
        )
    if number == errno.EAGAIN or _THREADS.search(text):
        return (
            "no more processes or threads can be started; raise the limit (ulimit -u; -v for their "
            f"memory), or {_fewer_workers(workers)}"
        )
    shared = of_worker or not isinstance(error, OSError)  # no file has such a name
    if number == errno.EFBIG and shared:
        return "the limit of files is too small for the memory that processes share; raise it " + (
            "(ulimit -f), or use `workers=0`"
        )
    if number == errno.ENOSPC and shared:
        return "the memory that processes share (/dev/shm) is full; enlarge it, or use `workers=0`"
    if number == errno.EFBIG:
        name = f" {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return f"the file{name} is larger than the limit; raise it (ulimit -f)"
    return None


def _smaller_batch(size: int | None, in_parts: bool | None) -> str:
    if size is None:
        return ""
    if size == 1:
        return " with one image at a time; use a smaller `image_size`, or a smaller model"
    if in_parts:
        return f" with {size} images at a time, which fitted before; end what else uses it"
    auto = "" if in_parts is None else "`batch_size=auto`, which takes it in parts, or "
    return f" with {size} images at a time; use {auto}`batch_size={size // 2}`"


def _fewer_workers(workers: int | None) -> str:
    if workers is None:
        return "use `workers=0`, which loads images in the main process"
    return f"use `workers={workers // 2}`" if workers else "end other programs"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from; of the user's own errors only the first."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, GtaError):
        yield cause
        cause = cause.__cause__
