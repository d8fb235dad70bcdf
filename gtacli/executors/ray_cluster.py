"""The executor `ray`: tasks of a Ray cluster, placed by Ray's own scheduler."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from gtacli.config.option import option
from gtacli.errors import GtaError
from gtacli.executors.base import Executor, ExecutorOptions, Job, run_words
from gtacli.runtime.interrupts import keep_handler

ANSWER_SECONDS = 10.0


class RayOptions(ExecutorOptions):
    """Resources of a task, and the cluster.

    The cluster is that of RAY_ADDRESS, or one that is started on this machine.
    """

    gpus: float | None = option(
        None, "GPUs of a task; 0.5: two share one", ge=0, shown="1 where the cluster has GPUs"
    )
    cpus: float = option(1.0, "cores of a task", gt=0)
    mem_gb: float | None = option(None, "memory of a task in GB", gt=0)


class RayCluster(Executor[RayOptions]):
    """Tasks of a Ray cluster, whose nodes must share this folder and have gta installed."""

    Options: ClassVar[type[ExecutorOptions]] = RayOptions

    def __init__(self, options: RayOptions, jobs: int | None, folder: Path) -> None:
        super().__init__(options, jobs, folder)
        try:
            import ray
        except ImportError:
            raise GtaError("ray needs Ray: pip install 'gtacli[ray]'", option="executor") from None
        self.slots = jobs
        self._ray = ray
        # Of a task whose end nobody waits for, as the command ends, it would write a traceback.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        self._own = not ray.is_initialized()
        if self._own:
            _check_address(os.environ.get("RAY_ADDRESS", ""))
            try:
                with keep_handler():
                    ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                text = f"no Ray cluster ({' '.join(str(error).split())})"
                raise GtaError(text, option="executor") from None
        wanted = self._wanted()
        # Ray would run a task again on its own; who has submitted it does, with what was saved.
        self._task: Any = ray.remote(max_retries=0, **wanted)(run_words)
        self._threads = str(max(1, int(wanted["num_cpus"])))
        self._running: list[_RayJob] = []

    def _wanted(self) -> dict[str, Any]:
        """Return the resources of a task. Raises GtaError if no node has them: it would wait."""
        options, nodes = self.options, [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
        gpus = options.gpus
        if gpus is None:
            gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
        wanted = {"num_cpus": options.cpus, "num_gpus": gpus}
        if options.mem_gb is not None:
            wanted["memory"] = int(options.mem_gb * 2**30)
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        if not any(all(n.get(names[k], 0) >= v for k, v in wanted.items()) for n in nodes):
            text = ", ".join(f"{names[key]} {value:g}" for key, value in wanted.items() if value)
            raise GtaError(f"no node of the Ray cluster has {text}", option="executor")
        return wanted

    def submit(self, words: Sequence[str], log: Path) -> Job:
        env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", self._threads)}
        task = self._task.remote(list(words), log.absolute(), Path.cwd(), env)
        job = _RayJob(self._ray, task)
        self._running = [other for other in self._running if not other.done()] + [job]
        return job

    def close(self) -> None:
        for job in self._running:
            job.cancel()
        if self._own:
            self._ray.shutdown()


def _check_address(address: str) -> None:
    """Raise GtaError where nothing answers at HOST:PORT, for which Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()) or "://" in host:  # "auto", a client's address
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        text = f"no Ray cluster answers at {address}, the RAY_ADDRESS ({reason})"
        raise GtaError(text, option="executor") from None


class _RayJob:
    def __init__(self, ray: Any, task: Any) -> None:
        self._ray, self._task = ray, task

    def done(self) -> bool:
        return bool(self._ray.wait([self._task], timeout=0)[0])

    def result(self) -> int:
        status: int = self._ray.get(self._task)
        return status

    def cancel(self) -> None:
        """Interrupt the task, and wait until its command has ended."""
        if not self.done():
            self._ray.cancel(self._task)
            self._ray.wait([self._task], timeout=None)
