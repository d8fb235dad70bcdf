"""The executor `slurm`: jobs of a SLURM cluster, by submitit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator

from gtacli.config.option import option
from gtacli.errors import GtaError, RunError
from gtacli.executors.base import Executor, ExecutorOptions, Job, run_words
from gtacli.runtime.interrupts import signals_held


def _read_word(value: str) -> str:
    if not re.fullmatch(r"[\w.,:@%+=\[\]&|*()-]+", value):
        raise ValueError(f"must be one word of letters, digits and .,:@%+=[]&|*()-, got {value!r}")
    return value


# A word of sbatch's options: none that begins another option, or another line of the script.
Word = Annotated[str, AfterValidator(_read_word)]

AGAIN_SECONDS = 0.5
"""Time between two signals to a job of the local engine that is to end."""


class SlurmOptions(ExecutorOptions):
    """Options of the jobs, named as sbatch names them.

    A study's file may come from others: there is none that runs a program of its own.
    """

    cluster: Literal["slurm", "local"] = option(
        "slurm", "slurm, or local: processes of this machine, to try a study"
    )
    partition: Word | None = option(None, "partition")
    account: Word | None = option(None, "account")
    qos: Word | None = option(None, "quality of service")
    constraint: Word | None = option(None, "features of the node")
    time: int = option(24 * 60, "limit of time of a job in minutes", ge=1)
    gpus: int = option(1, "GPUs of a job", ge=0)
    cpus: int = option(8, "cores of a job", ge=1)
    mem_gb: float | None = option(None, "memory of a job in GB", gt=0)


class Slurm(Executor[SlurmOptions]):
    """Jobs of a SLURM cluster, which must share this folder. `jobs`: at a time.

    A job that reaches its limit of time is submitted again by the study, and its run goes on.
    """

    Options: ClassVar[type[ExecutorOptions]] = SlurmOptions

    def __init__(self, options: SlurmOptions, jobs: int | None, folder: Path) -> None:
        super().__init__(options, jobs, folder)
        try:
            import submitit
        except ImportError:
            text = "slurm needs submitit: pip install 'gtacli[slurm]'"
            raise GtaError(text, option="executor") from None
        self.slots = jobs
        folder = folder.absolute()  # submitit would read a `~` in it
        if "%" in str(folder):
            text = (
                f"slurm reads a % in a folder's name as a number of a job; choose another: {folder}"
            )
            raise GtaError(text, option="executor")
        try:
            self._engine = submitit.AutoExecutor(folder, cluster=options.cluster)
        except RuntimeError as error:  # no sbatch here
            text = f"{' '.join(str(error).split())} (`executor=slurm` runs where sbatch does)"
            raise GtaError(text, option="executor") from None
        self._engine.update_parameters(**_parameters(options))
        self._running: list[Any] = []

    def submit(self, words: Sequence[str], log: Path) -> Job:
        given = list(words), log.absolute(), Path.cwd()
        if self.options.cluster == "local":
            with signals_held([signal.SIGINT]):  # they share the terminal, and its Ctrl-C
                job = self._engine.submit(_run_until_sigterm, *given)
        else:
            job = self._engine.submit(_run_in_job, *given)
        self._running = [other for other in self._running if not other.done()] + [job]
        return _SlurmJob(job)

    def close(self) -> None:
        if self.options.cluster == "local":
            self._end_processes()
            return
        for job in self._running:
            if not job.done():
                job.cancel(check=False)
        for job in self._running:
            job.wait()

    def _end_processes(self) -> None:
        """End the jobs of the local engine, which would kill those that save their states.

        A process that is only starting may miss a signal, so it is repeated.
        """
        while left := [job for job in self._running if not job.done()]:
            for job in left:
                os.kill(int(job.job_id), signal.SIGTERM)
            time.sleep(AGAIN_SECONDS)


class _SlurmJob:
    def __init__(self, job: Any) -> None:
        self._job = job

    def done(self) -> bool:
        ended: bool = self._job.done()
        return ended

    def result(self) -> int:
        """Return the exit status. Raises RunError, where submitit would with the job's log."""
        from submitit.core.utils import UncompletedJobError

        try:
            status: int = self._job.result()
        except UncompletedJobError:
            job = self._job
            raise RunError(f"job {job.job_id} was lost; its log is {job.paths.stderr}") from None
        return status


def _run_in_job(words: Sequence[str], log: Path, cwd: Path) -> int:
    """Run `gta WORDS` in a job of SLURM, whose warning before its limit of time is submitit's.

    It is a signal to all processes of the job: of which the command would die, instead of saving.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])

    def started(process: subprocess.Popen[bytes]) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # the command inherits the other one

    return run_words(words, log, cwd, started=started)


def _run_until_sigterm(words: Sequence[str], log: Path, cwd: Path) -> int:
    """Run `gta WORDS` in a process of the local engine; its first SIGTERM is passed on, once."""
    processes: list[subprocess.Popen[bytes]] = []
    wanted, sent = False, False

    def pass_on() -> None:
        nonlocal sent
        if wanted and processes and not sent:
            sent = True
            with suppress(OSError):  # it has ended
                processes[0].send_signal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal wanted
        wanted = True
        pass_on()

    def started(process: subprocess.Popen[bytes]) -> None:
        processes.append(process)
        pass_on()

    # Not by ignoring it, which the command would inherit.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGTERM, end)
    return run_words(words, log, cwd, started=started)


def _parameters(options: SlurmOptions) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": "gta-study",
        "timeout_min": options.time,
        "cpus_per_task": options.cpus,
        "gpus_per_node": options.gpus,
        "nodes": 1,
        "tasks_per_node": 1,
        "mem_gb": options.mem_gb,
    }
    own = ("partition", "account", "qos", "constraint")
    found |= {f"slurm_{name}": getattr(options, name) for name in own}
    return {name: value for name, value in found.items() if value is not None}
