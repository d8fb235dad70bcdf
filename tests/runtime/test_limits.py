"""Tests of the lines about a machine's limits."""

from __future__ import annotations

import errno
import os
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest

from gtacli.errors import GtaError, RunError
from gtacli.runtime.limits import error_number, explain_limit
from gtacli.runtime.process_memory import status_bytes

CASES: list[tuple[BaseException, str]] = [
    (
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"),
        "the memory of the GPU is full with 64 images at a time; use `batch_size=32`",
    ),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "the memory of the GPU is full with 64 images at a time; use `batch_size=32`",
    ),
    (MemoryError(), "the memory is full with 64 images at a time; use `batch_size=32`"),
    (
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 4 bytes. Error code 12"),
        "the memory is full with 64 images at a time; use `batch_size=32`",
    ),
    (
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        "the memory is full with 64 images at a time; use `batch_size=32`",
    ),
    (
        RuntimeError("could not create a primitive"),
        "the memory is full with 64 images at a time; use `batch_size=32`",
    ),
    (
        RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. "),
        "a process that loads images has ended (Killed), mostly for lack of memory; "
        "use `workers=2`",
    ),
    (
        BrokenProcessPool("A process in the process pool was terminated abruptly"),
        "a process that loads images has ended, mostly for lack of memory; use `workers=2`",
    ),
    (
        OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.png"),
        "too many files are open; raise the limit (ulimit -n 4096), or use `workers=2`",
    ),
    (
        RuntimeError("can't start new thread"),
        "no more processes or threads can be started; raise the limit (ulimit -u; -v for their "
        "memory), or use `workers=2`",
    ),
    (
        OSError(errno.EFBIG, os.strerror(errno.EFBIG), "state.pt"),
        "the file state.pt is larger than the limit; raise it (ulimit -f)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("error", "line"), CASES)
def test_a_limit_is_one_line_that_says_what_fits(error: BaseException, line: str) -> None:
    limit = explain_limit(error, batch_size=64, workers=4)
    assert isinstance(limit, RunError)
    assert limit.message == line


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_any_failure_at_the_limit_of_memory_is_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    error = SystemError("error return without exception set")
    assert explain_limit(error, batch_size=64) is None
    peak = status_bytes("VmPeak")
    assert peak is not None
    for near, told in ((10 << 20, True), (1 << 40, False)):
        limits = (peak + near, resource.RLIM_INFINITY)
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        limit = explain_limit(error, batch_size=64)
        assert (limit is not None) == told
        if limit is not None:
            assert limit.message == (
                "the memory that a process may have (ulimit -v) is full with 64 images at a time; "
                "use `batch_size=32`"
            )
        assert explain_limit(GtaError("no folder x")) is None


def test_the_smallest_sizes_have_another_way_out() -> None:
    one = explain_limit(MemoryError(), batch_size=1)
    assert one is not None
    assert "`image_size`" in one.message
    none = explain_limit(OSError(errno.EMFILE, "x"), workers=0)
    assert none is not None
    assert "end other programs" in none.message


def test_a_training_takes_a_batch_in_parts() -> None:
    whole = explain_limit(MemoryError(), batch_size=64, fit_memory=False)
    assert whole is not None
    assert "use `batch_size=auto`, which takes it in parts, or `batch_size=32`" in whole.message
    part = explain_limit(MemoryError(), batch_size=8, fit_memory=True)
    assert part is not None
    assert "8 images at a time, which fitted before" in part.message


@pytest.mark.parametrize(
    ("how", "line"),
    [
        (f"exited unexpectedly with exit code {100 + errno.EMFILE}. Details", "too many files"),
        (f"exited unexpectedly with exit code {100 + errno.EFBIG}. Details", "ulimit -f"),
        (f"exited unexpectedly with exit code {100 + errno.ENOSPC}. Details", "/dev/shm"),
        (f"exited unexpectedly with exit code {100 + errno.ENOMEM}. Details", "memory is full"),
        ("exited unexpectedly with exit code 1. Details", "has ended, mostly"),
        ("is killed by signal: Bus error. It is possible", "has ended (Bus)"),
    ],
)
def test_how_a_worker_has_ended_is_said(how: str, line: str) -> None:
    last = RuntimeError("DataLoader worker (pid(s) 4711) exited unexpectedly")
    last.__cause__ = RuntimeError(f"DataLoader worker (pid 4711) {how}")
    limit = explain_limit(last, workers=2)
    assert limit is not None
    assert line in limit.message


def test_errors_of_torch_have_the_number_of_the_system() -> None:
    shared = "unable to open shared memory object </torch_1_2_3> in read-write mode: "
    full = RuntimeError(f"{shared}{os.strerror(errno.EMFILE)} ({errno.EMFILE})")
    assert error_number(full) == errno.EMFILE
    assert error_number(RuntimeError("received 0 items of ancdata")) == errno.EMFILE
    assert error_number(RuntimeError("a size: of (24)")) is None


def test_the_cause_of_an_error_is_read_and_no_other_is_explained() -> None:
    error = ValueError("cannot decode")
    error.__cause__ = MemoryError()
    assert explain_limit(error) is not None
    assert explain_limit(ValueError("CUDA is not available")) is None
    assert explain_limit(FileNotFoundError(errno.ENOENT, "x")) is None
    assert explain_limit(RunError("cannot write")) is None
