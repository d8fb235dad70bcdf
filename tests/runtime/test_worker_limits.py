"""Tests of workers that meet a limit: their parent is told, and does not wait for ever."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from gtacli.runtime.limits import WORKER_STATUS
from gtacli.runtime.processes import _end_worker

CODE = """
    import resource
    import torch
    from torch.utils.data import DataLoader
    from gtacli.data.workers import _receive, start_worker
    from gtacli.runtime.limits import explain_limit

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 8
        def __getitem__(self, i):
            if {in_worker}:
                resource.setrlimit({limit})
            return [torch.zeros(1000) for _ in range(20)]

    try:
        list(_receive(DataLoader(Items(), None, num_workers=1, worker_init_fn=start_worker)))
    except Exception as error:
        print(explain_limit(error, workers=1).message)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sets limits")
@pytest.mark.parametrize(
    ("limit", "line"),
    [
        ("resource.RLIMIT_NOFILE, (12, 12)", "too many files are open"),
        ("resource.RLIMIT_FSIZE, (100, 100)", "the limit of files is too small for the memory"),
    ],
)
def test_a_worker_that_cannot_send_ends_and_says_why(limit: str, line: str) -> None:
    code = textwrap.dedent(CODE.format(limit=limit, in_worker="i == 2"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert line in done.stdout
    assert "Traceback" not in done.stderr


STUCK = """
    import multiprocessing, time
    from gtacli.runtime.processes import begin_worker, kill_workers_at_exit

    def wait():
        begin_worker()
        print("ready", flush=True)
        time.sleep(100)

    kill_workers_at_exit()
    multiprocessing.get_context("fork").Process(target=wait, daemon=True).start()
    time.sleep(1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_worker_that_is_stuck_does_not_keep_its_parent() -> None:
    code = textwrap.dedent(STUCK)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("ready\n", "")


@pytest.mark.parametrize(
    ("error", "status"),
    [(OSError(errno.ENOSPC, "x"), WORKER_STATUS + errno.ENOSPC), (ValueError("x"), 1),
     (ConnectionResetError(errno.ECONNRESET, "x"), 0), (BrokenPipeError(errno.EPIPE, "x"), 0)],
)  # fmt: skip
def test_a_worker_whose_parent_has_hung_up_has_not_failed(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended with a status, at which torch raised an error in the parent's last moments."""

    def leave(number: int) -> None:
        raise SystemExit(number)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as ended:
        _end_worker(error)
    assert ended.value.code == status
