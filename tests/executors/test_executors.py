from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

from gtacli.executors import base, local, slurm
from gtacli.executors.base import Executor, ExecutorOptions, Job
from gtacli.executors.local import Local
from gtacli.executors.slurm import SlurmOptions
from gtacli.registry import EXECUTORS
from gtacli.runtime.ownership import owned
from gtacli.testing.skeleton import write_skeleton


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_visible_gpus", list)


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let a program of a few lines stand for `gta`; its words are in sys.argv[1:]."""
    popen = subprocess.Popen

    def start(words: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        assert list(words[:3]) == [sys.executable, "-m", "gtacli"]
        return popen([sys.executable, "-c", code, *words[3:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(base.subprocess, "Popen", start)


def wait(jobs: Sequence[Job], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not all(job.done() for job in jobs):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_local_commands_share_the_cores_and_report_their_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_gpus: None
) -> None:
    code = (
        "import os, sys; print(os.environ['OMP_NUM_THREADS'], sys.argv[1], os.getcwd(), "
        "file=sys.stderr); sys.exit(int(sys.argv[1]))"
    )
    stand_in(monkeypatch, code)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    monkeypatch.chdir(tmp_path)
    executor = Local(ExecutorOptions(), 2, tmp_path)
    log = tmp_path / "a" / "log"
    jobs = [executor.submit([str(status)], log) for status in (0, 3, 1)]
    wait(jobs)
    assert [job.result() for job in jobs] == [0, 3, 1]
    assert sorted(log.read_text().splitlines()) == [f"4 {n} {tmp_path}" for n in (0, 1, 3)]
    executor.close()


def test_each_local_command_sees_a_gpu_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(
        monkeypatch, "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], file=sys.stderr)"
    )
    monkeypatch.setattr(local, "_visible_gpus", lambda: ["2", "5"])
    executor = Local(ExecutorOptions(), None, tmp_path)
    assert executor.slots == 2
    wait([executor.submit([], tmp_path / name) for name in "ab"])
    assert {(tmp_path / name).read_text().strip() for name in "ab"} == {"2", "5"}


def test_options_of_the_environment_reach_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_gpus: None
) -> None:
    stand_in(monkeypatch, "import os, sys; print(sorted(os.environ), file=sys.stderr)")
    monkeypatch.setenv("GTA_FINETUNE__LR", "1")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("GTA_CACHE", str(tmp_path))
    executor = Local(ExecutorOptions(), 1, tmp_path)
    wait([executor.submit([], tmp_path / "log")])
    names = (tmp_path / "log").read_text()
    assert "'GTA_CACHE'" in names
    assert "LR" not in names
    assert "'RANK'" not in names


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_closing_ends_what_runs_as_a_signal_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_gpus: None
) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); "
        "print('begun', file=sys.stderr, flush=True); time.sleep(60)"
    )
    stand_in(monkeypatch, code)
    executor = Local(ExecutorOptions(), 2, tmp_path)
    jobs = [executor.submit([], tmp_path / name) for name in "ab"]
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"):
        time.sleep(0.01)
    executor.close()
    wait(jobs)
    assert [job.result() for job in jobs] == [130, 130]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_without_a_signal_ends_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray cancels a task so: `gta study run` waited for the end of its cells after Ctrl-C."""
    stand_in(monkeypatch, "import time; time.sleep(60)")
    begun: list[subprocess.Popen[bytes]] = []

    def started(process: subprocess.Popen[bytes]) -> None:
        begun.append(process)
        threading.Timer(0.2, _thread.interrupt_main).start()

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        base.run_words([], tmp_path / "log", tmp_path, started=started)
    assert time.monotonic() - began < 20
    assert begun[0].returncode == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
@pytest.mark.parametrize("seconds", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_a_command_ends_with_the_process_that_has_started_it(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, seconds: int
) -> None:
    """The real program: `gta` itself asks the system for the signal.

    The command would wait for a minute, since its folder has another owner.
    """
    code = (
        "import sys, time, os; from pathlib import Path; "
        "from gtacli.executors.base import run_words; "
        "run_words(sys.argv[3:], Path(sys.argv[2]), Path.cwd(), None, lambda p: "
        "(print(p.pid, flush=True), time.sleep(int(sys.argv[1])), os.kill(os.getpid(), 9)))"
    )
    out = tmp_path / "maps"
    words = ["discover", "-m", str(tiny_model), str(tiny_data), "-o", str(out), "--shard", "0/2"]
    plain = ["--set", "discovery.tokencut.layer=-1", "--set", "discovery.tokencut.tau=0.2"]
    log = tmp_path / "log"
    with owned(out, "test"):
        started = subprocess.run(
            [sys.executable, "-c", code, str(seconds), str(log), *words, *plain],
            stdout=subprocess.PIPE,
            check=False,
        )
        assert started.returncode == -signal.SIGKILL
        pid, end = int(started.stdout), time.monotonic() + 30
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
            time.sleep(0.05)
        assert not os.path.exists(f"/proc/{pid}")
    assert "interrupted" in log.read_text()


def test_a_slot_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_gpus: None
) -> None:
    stand_in(monkeypatch, "import time; time.sleep(0.3)")
    executor = Local(ExecutorOptions(), 1, tmp_path)
    first = executor.submit([], tmp_path / "log")
    assert threading.active_count() > 1
    second = executor.submit([], tmp_path / "log")
    assert first.done()
    wait([second])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_the_warning_of_a_limit_of_time_does_not_kill_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM sends it to all processes of a job; submitit's then ends the command by SIGTERM."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('alive'); os._exit(7)"
    stand_in(monkeypatch, code)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert slurm._run_in_job([], tmp_path / "log", tmp_path, 1) == 7
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize("word", ["a b", "a\n#SBATCH --wrap=x", "a;b", "$(x)", "-p x", ""])
def test_no_option_of_a_study_writes_another_line_into_a_job(word: str) -> None:
    with pytest.raises(ValidationError):
        SlurmOptions(partition=word)
    assert SlurmOptions(partition="gpu-a100,gpu", constraint="[a&b]").partition


def test_all_executors_can_be_loaded_without_their_engines() -> None:
    assert EXECUTORS.names() == ["local", "ray", "slurm"]
    for name in EXECUTORS.names():
        assert issubclass(EXECUTORS.load(name).Options, ExecutorOptions)


@pytest.mark.parametrize("kind", ["local", "skeleton"])
def test_closing_waits_for_a_command_that_is_only_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_gpus: None, kind: str
) -> None:
    """It wrote its log in a folder that whoever had closed the executor was removing."""
    stand_in(monkeypatch, "import time; time.sleep(60)")
    begin, begun = base.subprocess.Popen, []

    def late(words: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        time.sleep(0.5)
        begun.append(begin(words, **options))  # type: ignore[call-overload]
        return begun[0]

    monkeypatch.setattr(base.subprocess, "Popen", late)
    part: type[Executor[ExecutorOptions]] = Local
    if kind == "skeleton":
        write_skeleton("slow-executor", "executor", tmp_path / "plugin")
        monkeypatch.syspath_prepend(str(tmp_path / "plugin" / "src"))
        part = import_module("gta_slow_executor.executor").SlowExecutor
    executor = part(part.Options(), 2, tmp_path)
    executor.submit([], tmp_path / "log")
    executor.close()
    assert [process.returncode for process in begun] == [-signal.SIGTERM]
    executor.close()
