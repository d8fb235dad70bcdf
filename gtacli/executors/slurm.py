"""The executor `slurm`: jobs of a SLURM cluster, by submitit."""

from __future__ import annotations

import logging
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
from gtacli.executors.slurm_queue import Queue, cancel
from gtacli.runtime.interrupts import signals_held
from gtacli.runtime.machine import usable_cores

log = logging.getLogger(__name__)


def _read_word(value: str) -> str:
    if not re.fullmatch(r"[\w.,:@%+=\[\]&|*()-]+", value):
        raise ValueError(f"must be one word of letters, digits and .,:@%+=[]&|*()-, got {value!r}")
    return value


# A word of sbatch's options: none that begins another option, or another line of the script.
Word = Annotated[str, AfterValidator(_read_word)]

AGAIN_SECONDS = 0.5
"""Time between two signals to a job of the local engine that is to end."""
LOST_SECONDS = 30.0
"""Time that a job's result may take to appear on a shared disk after the job left the queue."""
FILE_SECONDS = 1.0
"""Time between two looks for the file of a job's result, on a disk that all nodes share."""
CANCEL_SECONDS = 15.0
"""Time after which jobs that still run are cancelled again, as the cluster may have been away."""
BUSY_SECONDS = (2.0, 5.0, 15.0, 30.0)
"""Times to wait for a cluster that does not answer, before a job is given up."""


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
        self._running: list[_SlurmJob] = []
        self._queue = Queue()

    def submit(self, words: Sequence[str], log: Path) -> Job:
        given = list(words), log.absolute(), Path.cwd(), self.options.cpus
        job: _SlurmJob
        if self.options.cluster == "local":
            with signals_held([signal.SIGINT]):  # they share the terminal, and its Ctrl-C
                job = _SlurmJob(self._engine.submit(_run_until_sigterm, *given))
        else:
            job = _QueuedJob(self._hand_over(*given), self._queue)
        self._running = [other for other in self._running if not other.done()] + [job]
        return job

    def _hand_over(self, *given: Any) -> Any:
        """Return the job of submitit that the cluster has accepted."""
        from submitit.core.utils import FailedJobError

        waits = iter(BUSY_SECONDS)
        while True:
            try:
                return self._engine.submit(_run_in_job, *given)
            except FailedJobError as error:
                text = _refusal(" ".join(str(error).split()))
                seconds = next(waits, None)
                if seconds is None or not _BUSY.search(text):
                    raise GtaError(text, option="executor") from None
                log.warning("%s; asking again", text)
                time.sleep(seconds)

    def close(self) -> None:
        if self.options.cluster == "local":
            self._end_processes()
            return
        left, asked = self._running, None
        while left := [job for job in left if not job.ended()]:
            if asked is None or time.monotonic() - asked > CANCEL_SECONDS:
                if asked is not None:
                    log.warning("jobs that have not ended are cancelled again: %d", len(left))
                cancel([job.number for job in left])
                asked = time.monotonic()
            time.sleep(FILE_SECONDS)

    def _end_processes(self) -> None:
        """End the jobs of the local engine, which would kill those that save their states.

        A process that is only starting may miss a signal, so it is repeated.
        """
        while left := [job for job in self._running if not job.done()]:
            for job in left:
                os.kill(int(job.number), signal.SIGTERM)
            time.sleep(AGAIN_SECONDS)


class _SlurmJob:
    """A job of submitit; it asks the engine of this machine alone whether it has ended."""

    def __init__(self, job: Any) -> None:
        self._job = job
        self.number = str(job.job_id)

    def done(self) -> bool:
        ended: bool = self._job.done()
        return ended

    def ended(self) -> bool:
        """Return whether it has ended; it is asked now, and believed at once."""
        return self.done()

    def result(self) -> int:
        """Return the exit status. Raises RunError, where submitit would with the job's log."""
        from submitit.core.utils import UncompletedJobError

        try:
            status: int = self._job.result()
        except UncompletedJobError:
            raise self._lost() from None
        return status

    def _lost(self) -> RunError:
        return RunError(f"job {self.number} was lost; its log is {self._job.paths.stderr}")


class _QueuedJob(_SlurmJob):
    """A job of the cluster: it has ended once its result is there, or it has left the queue."""

    def __init__(self, job: Any, queue: Queue) -> None:
        super().__init__(job)
        self._queue = queue
        self._since = time.monotonic()
        self._looked = float("-inf")
        self._left: float | None = None
        self._over = False

    def done(self) -> bool:
        now = time.monotonic()
        if not self._over and now - self._looked >= FILE_SECONDS:
            self._looked = now
            self._over = self._has_result() or self._is_lost(now)
        return self._over

    def _is_lost(self, now: float) -> bool:
        """Return whether it has left the queue for so long that no result is to come."""
        if not self._queue.lacks(self.number, self._since):
            self._left = None
        elif self._left is None:
            self._left = now
        return self._left is not None and now - self._left >= LOST_SECONDS

    def ended(self) -> bool:
        return self._has_result() or self._queue.lacks(self.number, self._since, FILE_SECONDS)

    def result(self) -> int:
        if not self._has_result():
            raise self._lost()
        return super().result()

    def _has_result(self) -> bool:
        file: Path = self._job.paths.result_pickle
        with suppress(OSError):  # NFS looks for new files in a folder that is opened
            os.scandir(file.parent).close()
        return file.exists()


def _run_in_job(words: Sequence[str], log: Path, cwd: Path, cpus: int) -> int:
    """Run `gta WORDS` in a job of SLURM, whose warning before its limit of time is submitit's.

    It is a signal to all processes of the job: of which the command would die, instead of saving.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])

    def started(process: subprocess.Popen[bytes]) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # the command inherits the other one

    return run_words(words, log, cwd, _threads(cpus), started)


def _threads(cpus: int) -> dict[str, str]:
    """Return the variable of the threads of a job: not every cluster binds jobs to their cores."""
    own = str(min(cpus, usable_cores()))
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", own)}


def _run_until_sigterm(words: Sequence[str], log: Path, cwd: Path, cpus: int) -> int:
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
    return run_words(words, log, cwd, _threads(cpus), started)


_BUSY = re.compile("timed out|timeout|temporarily|contact slurm controller|try again", re.I)
"""In what sbatch says when the cluster is only busy, or its controller is started again."""


def _refusal(reason: str) -> str:
    """Return what is wrong with a job that sbatch refused, and what to change."""
    for words in ("sbatch: error: ", "Batch job submission failed: "):
        reason = reason.replace(words, "")
    text = f"sbatch refused the job: {reason}"
    if re.search(r"generic resource|\bgres\b", reason, re.I):
        return f"{text}; `gpus` is the number of GPUs of a job, 0 where the cluster has none"
    if "limit" in reason.lower():
        return f"{text}; `jobs` says how many wait or run at a time"
    return text


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
    if options.cluster == "slurm":
        # A lost job is submitted again from here. SLURM would do so too, also after a Ctrl-C here.
        found["slurm_additional_parameters"] = {"no-requeue": True}
    own = ("partition", "account", "qos", "constraint")
    found |= {f"slurm_{name}": getattr(options, name) for name in own}
    return {name: value for name, value in found.items() if value is not None}
