"""The executor `slurm` on a double of a cluster: its commands, as programs that run jobs here.

The double behaves as SLURM 22.05 did on a cluster of two nodes without accounting.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer

import pytest

from gtacli.errors import GtaError, RunError
from gtacli.executors import slurm
from gtacli.executors.base import Job
from gtacli.executors.slurm import Slurm, SlurmOptions
from gtacli.executors.slurm_queue import Queue

SBATCH = """
import os, subprocess, sys
from pathlib import Path

home = Path(__file__).parent
if (home / "refusals").exists():
    refusals = (home / "refusals").read_text().splitlines()
    if refusals:
        (home / "refusals").write_text("".join(f"{line}\\n" for line in refusals[1:]))
        sys.exit(f"sbatch: error: Batch job submission failed: {refusals[0]}")
number = len(list((home / "jobs").iterdir())) + 1
names = ("JOB_NUM_NODES", "NTASKS"), ("NODEID", "PROCID", "LOCALID")
env = {f"SLURM_{name}": str(1 - value) for value, group in enumerate(names) for name in group}
env |= {"SLURM_JOB_ID": str(number), "SLURM_JOB_NODELIST": "n1"}
(home / f"script.{number}").write_text(Path(sys.argv[-1]).read_text())
if (home / "drained").exists():
    (home / "jobs" / str(number)).write_text("0")
else:
    process = subprocess.Popen(
        ["bash", home / f"script.{number}"], env={**os.environ, **env}, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    (home / "jobs" / str(number)).write_text(str(process.pid))
print(f"Submitted batch job {number}")
"""
SRUN = """
import os, sys

words = sys.argv[1:]
while words[0].startswith("-"):
    words = words[1:] if words[0] == "--unbuffered" else words[2:]
os.execvp(words[0], words)
"""
SQUEUE = """
import os, sys
from pathlib import Path

home = Path(__file__).parent
with (home / "asked").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if (home / "away").exists():
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
for job in (home / "jobs").iterdir():
    try:
        pid = int(job.read_text())
        os.killpg(pid, 0) if pid else None
    except (ProcessLookupError, PermissionError):
        continue
    print(job.name)
"""
SCANCEL = """
import os, signal, sys
from pathlib import Path

if (Path(__file__).parent / "away").exists():
    sys.exit("scancel: error: Unable to contact slurm controller (connect failure)")
for number in sys.argv[1:]:
    job = Path(__file__).parent / "jobs" / number
    if job.read_text() == "0":
        job.unlink()
    for process in Path("/proc").glob("[0-9]*"):  # all of a job, in whatever session
        try:
            variables = (process / "environ").read_bytes().split(b"\\0")
            if f"SLURM_JOB_ID={number}".encode() in variables:
                os.kill(int(process.name), signal.SIGTERM)
        except OSError:
            continue
"""
SACCT = "import sys; sys.exit('Slurm accounting storage is disabled')"
PROGRAMS = {
    "sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scancel": SCANCEL, "sacct": SACCT,
}  # fmt: skip
SHOWS_THREADS = """
import os, sys, time

if sys.orig_argv[1:3] == ["-m", "gtacli"]:
    print("threads", os.environ["OMP_NUM_THREADS"], file=sys.stderr, flush=True)
    if "wait" in sys.orig_argv:
        time.sleep(60)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = tmp_path / "cluster"
    (home / "jobs").mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (home / name).write_text(f"#!{sys.executable} -IS\n{text}")
        (home / name).chmod(0o755)
    (home / "sitecustomize.py").write_text(SHOWS_THREADS)
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(home))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(slurm, "LOST_SECONDS", 0.5)
    monkeypatch.setattr(slurm, "FILE_SECONDS", 0.1)
    monkeypatch.setattr(slurm, "CANCEL_SECONDS", 1.0)
    monkeypatch.setattr(slurm, "BUSY_SECONDS", (0.1, 0.1))
    monkeypatch.setattr(Queue.lacks, "__defaults__", (0.2,))
    yield home
    for job in (home / "jobs").iterdir():
        if pid := int(job.read_text()):
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def executor(cluster: Path, tmp_path: Path) -> Slurm:
    return Slurm(SlurmOptions(gpus=0, cpus=1), None, tmp_path / "files")


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def status_of(job: Job) -> int:
    wait_until(job.done)
    return job.result()


def kill(cluster: Path, number: int) -> None:
    os.killpg(int((cluster / "jobs" / str(number)).read_text()), signal.SIGKILL)


def test_jobs_end_on_a_cluster_without_accounts(
    executor: Slurm, cluster: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each look was told in three lines on the screen, as submitit asks the accounts."""
    log = tmp_path / "log"
    assert status_of(executor.submit(["--version"], log)) == 0
    assert status_of(executor.submit(["study", "status", "nothing"], log)) == 2
    executor.close()
    assert "threads 1\n" in log.read_text()  # of two cores and more
    assert "--no-requeue" in (cluster / "script.1").read_text()
    assert capfd.readouterr() == ("", "")


def test_a_job_whose_node_is_lost_is_told(executor: Slurm, cluster: Path, tmp_path: Path) -> None:
    """Without accounts it was waited for forever."""
    job = executor.submit(["wait"], tmp_path / "log")
    wait_until(lambda: (tmp_path / "log").exists())
    assert not job.done()
    kill(cluster, 1)
    with pytest.raises(RunError, match=r"^job 1 was lost; its log is \S+_log.err$"):
        status_of(job)
    executor.close()


def test_jobs_are_not_lost_while_the_controller_is_away(
    executor: Slurm, cluster: Path, tmp_path: Path
) -> None:
    job = executor.submit(["wait"], tmp_path / "log")
    (cluster / "away").touch()
    asked = cluster / "asked"
    wait_until(lambda: not job.done() and asked.exists() and asked.read_text().count("\n") > 3)
    kill(cluster, 1)
    time.sleep(1)
    assert not job.done()
    (cluster / "away").unlink()
    wait_until(job.done)


def test_closing_cancels_jobs_that_wait_and_ends_those_that_run(
    executor: Slurm, cluster: Path, tmp_path: Path
) -> None:
    running = executor.submit(["wait"], tmp_path / "log")
    wait_until(lambda: (tmp_path / "log").exists())
    (cluster / "drained").touch()
    executor.submit(["wait"], tmp_path / "other")
    began = time.monotonic()
    executor.close()
    assert time.monotonic() - began < 30
    assert [job.name for job in (cluster / "jobs").iterdir()] == ["1"]
    wait_until(running.done)
    assert not (tmp_path / "other").exists()


def test_closing_cancels_again_once_the_controller_is_back(
    executor: Slurm, cluster: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The one order to cancel was lost, and the jobs were waited for until they ended."""
    executor.submit(["wait"], tmp_path / "log")
    wait_until(lambda: (tmp_path / "log").exists())
    (cluster / "away").touch()
    back = Timer(2, (cluster / "away").unlink)
    back.start()
    began = time.monotonic()
    executor.close()
    back.join()
    assert time.monotonic() - began < 30  # the job would take 60
    assert "jobs that have not ended are cancelled again: 1" in caplog.messages


def test_many_jobs_are_asked_for_at_once(executor: Slurm, cluster: Path, tmp_path: Path) -> None:
    (cluster / "drained").touch()
    jobs = [executor.submit(["wait"], tmp_path / "log") for _ in range(5)]
    (cluster / "asked").unlink(missing_ok=True)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert not any(job.done() for job in jobs)
    asked = (cluster / "asked").read_text().splitlines()
    assert len(asked) <= 5
    assert set(asked) == {f"-h -u {os.getuid()} -o %i"}
    executor.close()


def test_what_sbatch_refuses_is_said_in_a_line(
    executor: Slurm, cluster: Path, tmp_path: Path
) -> None:
    """It was `error: FailedJobError: sbatch: error: ...`, as of a fault in the program."""
    told = {
        "Invalid partition name specified": "sbatch refused the job: Invalid partition name",
        "Invalid generic resource (gres) specification": "`gpus` is the number of GPUs of a job",
        "QOSMaxSubmitJobPerUserLimit": "`jobs` says how many wait or run at a time",
    }
    for refusal, text in told.items():
        (cluster / "refusals").write_text(f"{refusal}\n")
        with pytest.raises(GtaError) as caught:
            executor.submit(["--version"], tmp_path / "log")
        assert text in caught.value.message
        assert "sbatch: error" not in caught.value.message
    assert not [*(cluster / "jobs").iterdir()]


def test_a_busy_cluster_is_asked_again(
    executor: Slurm, cluster: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    busy = "Unable to contact slurm controller (connect failure)\n"
    (cluster / "refusals").write_text(busy * 2)
    assert status_of(executor.submit(["--version"], tmp_path / "log")) == 0
    again = f"sbatch refused the job: {busy.strip()}; asking again"
    assert [record.message for record in caplog.records] == [again] * 2
    (cluster / "refusals").write_text(busy * 3)
    with pytest.raises(GtaError, match="Unable to contact slurm controller"):
        executor.submit(["--version"], tmp_path / "log")
