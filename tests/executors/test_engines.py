"""The engines themselves: submitit on this machine, and a Ray cluster of two nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gtacli.errors import GtaError, RunError
from gtacli.executors.base import Executor
from gtacli.executors.ray_cluster import RayCluster, RayOptions
from gtacli.executors.slurm import Slurm, SlurmOptions
from gtacli.runtime.ownership import owned

pytestmark = pytest.mark.slow
VERSION = ["--version"]
UNKNOWN = ["study", "status", "nothing"]


def statuses(executor: Executor[Any], folder: Path, *commands: list[str]) -> list[int]:
    jobs = [executor.submit(words, folder / str(n)) for n, words in enumerate(commands)]
    end = time.monotonic() + 120
    while not all(job.done() for job in jobs):
        assert time.monotonic() < end
        time.sleep(0.1)
    return [job.result() for job in jobs]


def test_submitit_runs_commands_and_reports_their_status(tmp_path: Path) -> None:
    executor = Slurm(SlurmOptions(cluster="local", gpus=0), None, tmp_path / "jobs")
    assert statuses(executor, tmp_path, VERSION, UNKNOWN) == [0, 2]
    assert "is no study's folder" in (tmp_path / "1").read_text()
    executor.close()


@pytest.mark.parametrize("seconds", [0.0, 1.0, None])
def test_ctrl_c_in_a_terminal_ends_jobs_of_submitit_without_a_traceback(
    tmp_path: Path, seconds: float | None
) -> None:
    """It reaches all processes there, at some second after the start; None: while `gta` works."""
    (tmp_path / "sitecustomize.py").write_text(_SLOW_TO_SAVE)
    end = time.monotonic() + 60
    with subprocess.Popen(
        [sys.executable, "-c", _UNTIL_CTRL_C, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"submitted\n"
        logs = [tmp_path / name for name in "ab"]
        while seconds is None and not all(p.exists() and p.read_text() for p in logs):
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(seconds or 0)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0
    told = [path.read_text().split() for path in logs if path.exists()]
    if seconds is None:
        assert told == [["begun", "saved"]] * 2
    assert not [p for p in tmp_path.glob("jobs/*.err") if "Traceback" in p.read_text()]


_SLOW_TO_SAVE = """
import os, signal, sys, time

def end(number, frame):
    time.sleep(2)
    print("saved", file=sys.stderr, flush=True)
    os._exit(130)

if sys.orig_argv[1:3] == ["-m", "gtacli"]:
    signal.signal(signal.SIGTERM, end)
    print("begun", file=sys.stderr, flush=True)
    time.sleep(60)
"""
"""Stands for a `gta` that takes two seconds to save its state."""
_UNTIL_CTRL_C = """
import sys, time
from pathlib import Path
from gtacli.executors.slurm import Slurm, SlurmOptions
from gtacli.runtime.interrupts import StopSignal

folder = Path(sys.argv[1])
executor = Slurm(SlurmOptions(cluster="local", gpus=0), None, folder / "jobs")
with StopSignal() as stop:
    for name in "ab":
        executor.submit([], folder / name)
    print("submitted", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    executor.close()
"""


def test_a_job_of_submitit_that_is_killed_is_lost_in_one_line(tmp_path: Path) -> None:
    """It was told with the job's log, or a traceback, in the line."""
    executor = Slurm(SlurmOptions(cluster="local", gpus=0), None, tmp_path / "jobs")
    (tmp_path / "file").touch()
    job = executor.submit(VERSION, tmp_path / "file" / "log")  # no folder
    end = time.monotonic() + 60
    while not job.done():
        assert time.monotonic() < end
        time.sleep(0.1)
    with pytest.raises(RunError, match=r"^job \d+ was lost; its log is \S+_log.err$"):
        job.result()
    assert "FileExistsError" in next((tmp_path / "jobs").glob("*.err")).read_text()


def test_no_folder_is_one_that_slurm_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of jobs were written beside it, in `a 1234`."""
    with pytest.raises(GtaError, match=r"reads a % in a folder's name.*a %j/jobs"):
        Slurm(SlurmOptions(cluster="local"), None, tmp_path / "a %j" / "jobs")
    assert not [*tmp_path.iterdir()]
    monkeypatch.chdir(tmp_path)
    executor = Slurm(SlurmOptions(cluster="local", gpus=0), None, Path("~") / "jobs")
    assert statuses(executor, tmp_path, VERSION) == [0]
    assert len([*tmp_path.glob("~/jobs/*_result.pkl")]) == 1


def test_without_sbatch_slurm_is_said_to_be_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GtaError, match="runs where sbatch does"):
        Slurm(SlurmOptions(), None, tmp_path)


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    cluster.add_node(num_cpus=1, num_gpus=0)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def test_a_ray_cluster_runs_commands_on_both_nodes(two_nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(GtaError, match="no node of the Ray cluster has CPU 3"):
        RayCluster(RayOptions(cpus=3), None, tmp_path)
    import ray

    ray.shutdown()
    handler = signal.getsignal(signal.SIGTERM)
    executor = RayCluster(RayOptions(), None, tmp_path)
    assert executor.slots is None
    assert signal.getsignal(signal.SIGTERM) == handler  # of this program, not Ray's
    assert statuses(executor, tmp_path, VERSION, UNKNOWN, VERSION) == [0, 2, 0]
    executor.close()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no-such-host.invalid:6379", "[::1]:99999"])
def test_a_ray_cluster_that_is_not_there_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Ray waited for it for more than eight minutes, and no signal ended that."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(GtaError, match="no Ray cluster answers at"):
        RayCluster(RayOptions(), None, tmp_path)


def test_closing_ends_what_runs_on_a_ray_cluster(
    two_nodes: Any, tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    """The command would wait for a minute, since its folder has another owner."""
    executor = RayCluster(RayOptions(), None, tmp_path)
    out, log = tmp_path / "maps", tmp_path / "log"
    words = ["discover", "-m", str(tiny_model), str(tiny_data), "-o", str(out), "--shard", "0/2"]
    with owned(out, "test"):
        executor.submit(words, log)
        end = time.monotonic() + 60
        while not log.exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        began = time.monotonic()
        executor.close()
        assert time.monotonic() - began < 30
