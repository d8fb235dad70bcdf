"""Tests of signals outside of loops: in the command line, in workers, at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gtacli.runtime.interrupts import StopSignal, cpu_time_is_up, interruptible, keep_handler

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
SIGNALS = [signal.SIGTERM, signal.SIGINT]


def start(code: str) -> subprocess.Popen[str]:
    """Run `code` in a session of its own until it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def wait(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


COMMAND = """
    import sys, time
    from gtacli import cli

    def work(words):
        {before}
        print("ready", flush=True)
        for _ in range(600):
            time.sleep(0.1)  # a long one may begin just after the signal
        return 0

    cli.{place} = work
    sys.exit(cli.main(["models", "list"]))
"""


@pytest.mark.parametrize("place", [pytest.param("_run", marks=pytest.mark.slow), "_invoke"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_at_any_moment_is_one_line_and_130(number: int, place: str) -> None:
    process = start(COMMAND.format(before="", place=place))
    assert wait(process, number) == (130, "error: interrupted\n")


def test_an_interrupt_that_python_drops_is_repeated() -> None:
    wait_in = "lambda self: (print('ready', flush=True), [time.sleep(0.1) for _ in range(600)])"
    before = f"late = type('Late', (), {{'__del__': {wait_in}}})(); del late"
    process = start(COMMAND.format(before=before, place="_invoke"))
    assert wait(process, signal.SIGTERM) == (130, "error: interrupted\n")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("error", ["GtaError('weights are damaged')", "TypeError('no shape')"])
def test_an_interrupt_that_a_library_turns_into_an_error(number: int, error: str) -> None:
    """safetensors reports whatever is raised while it makes a tensor as an error of the file."""
    process = start(
        f"""
        import sys, time
        from gtacli import cli
        from gtacli.errors import GtaError

        def work(words):
            print("ready", flush=True)
            try:
                for _ in range(600):
                    time.sleep(0.1)
            except BaseException:
                raise {error} from None

        cli._invoke = work
        sys.exit(cli.main(["models", "list"]))
        """
    )
    assert wait(process, number) == (130, "error: interrupted\n")


def test_a_signal_after_the_result_keeps_the_status() -> None:
    process = start(
        """
        import atexit, sys, time
        from gtacli import cli

        def late():
            print("ready", flush=True)
            for _ in range(600):
                time.sleep(0.1)

        atexit.register(late)
        sys.argv = ["gta", "models"]
        cli._run = lambda words: 1
        sys.exit(cli.main())
        """
    )
    assert wait(process, signal.SIGTERM) == (1, "")


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def runs(pid: int) -> bool:
    """Return False for one that nobody has waited for, too: its command line is empty."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


WORKERS = {
    "data": """
        import torch
        from torch.utils.data import DataLoader
        from gtacli.data.workers import start_worker

        class Slow(torch.utils.data.Dataset):
            def __len__(self):
                return 2
            def __getitem__(self, i):
                if i:
                    time.sleep(60)
                return i
        loader = iter(DataLoader(Slow(), num_workers=2, worker_init_fn=start_worker))
        next(loader)
    """,
    "pool": """
        from concurrent.futures import ProcessPoolExecutor
        from gtacli.runtime.processes import begin_worker
        pool = ProcessPoolExecutor(2, None, begin_worker)
        pool.submit(time.sleep, 0).result()
        pool.submit(time.sleep, 60)
    """,
    # its parent may end before it has begun
    "late": """
        import multiprocessing
        from gtacli.runtime.processes import begin_worker

        def late():
            time.sleep(1)
            begin_worker()
            time.sleep(60)
        multiprocessing.get_context("fork").Process(target=late).start()
    """,
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["pool", "late", pytest.param("data", marks=pytest.mark.slow)])
def test_workers_end_with_their_parent(kind: str) -> None:
    code = "import time\n" + textwrap.dedent(WORKERS[kind]) + "\nprint('ready', flush=True)\n"
    process = start(code + "time.sleep(60)\n")
    workers = children(process.pid)
    assert workers
    process.kill()
    process.wait()
    end = time.monotonic() + 4
    while any(runs(pid) for pid in workers):
        assert time.monotonic() < end, "orphans"
        time.sleep(0.05)


@pytest.fixture
def by_default() -> Iterator[None]:
    """Let SIGTERM have its default action, which the test's process may have replaced."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="Windows has no such signal")
def test_the_limit_of_cpu_time_stops_a_loop_once(by_default: None) -> None:
    """The signal is repeated every second, which must not interrupt the saving.

    It is raised in this thread: one to the process may come late, when its handler is gone.
    """
    with interruptible():
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGXCPU)
            signal.raise_signal(signal.SIGXCPU)
            assert stop.requested
        signal.raise_signal(signal.SIGXCPU)
        assert cpu_time_is_up()
    with interruptible():
        assert not cpu_time_is_up()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGXCPU)
        signal.raise_signal(signal.SIGXCPU)
        assert cpu_time_is_up()
    assert signal.getsignal(signal.SIGXCPU) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="Windows has no such signal")
def test_a_command_ends_before_its_cpu_time_does() -> None:
    code = """
        import resource
        from gtacli.cli import lazy, main
        resource.setrlimit(resource.RLIMIT_CPU, (4, 4))

        def work(*args, **options):
            while True:
                pass
        lazy.root = lambda: type("Root", (), {"main": staticmethod(work)})
        raise SystemExit(main(["doctor"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == "error: interrupted (the limit of CPU time is reached: ulimit -t)\n"


def test_a_library_does_not_keep_its_handler_and_its_exit_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def connect() -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt), keep_handler():
        connect()
    assert signal.getsignal(signal.SIGTERM) == before
