"""The executor `local`: processes of this machine, one a GPU, or several that share the cores."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gtacli.executors.base import Executor, ExecutorOptions, Job, ThreadJob, run_words
from gtacli.runtime.machine import usable_cores


class Local(Executor[ExecutorOptions]):
    """Processes of this machine.

    By default one a GPU, each of which sees its own; without a GPU one, with all cores. Several on
    the CPU, or on one GPU, get equal shares of the cores as threads.
    """

    def __init__(self, options: ExecutorOptions, jobs: int | None, folder: Path) -> None:
        super().__init__(options, jobs, folder)
        gpus = _visible_gpus()
        self.slots: int = jobs or max(1, len(gpus))
        threads = max(1, usable_cores() // self.slots)
        self._free = [_slot_environment(slot, gpus, threads) for slot in range(self.slots)]
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._change = threading.Condition()

    def submit(self, words: Sequence[str], log: Path) -> Job:
        with self._change:
            while not self._free:
                self._change.wait()
            env = self._free.pop(0)
        cwd = Path.cwd()
        return ThreadJob(lambda: self._run(words, log, cwd, env))

    def close(self) -> None:
        with self._change:
            self._closed = True
            for process in self._running:
                _end(process)
            while len(self._free) < self.slots:  # a command that is only starting has one, too
                self._change.wait()

    def _run(self, words: Sequence[str], log: Path, cwd: Path, env: dict[str, str]) -> int:
        started: list[subprocess.Popen[bytes]] = []

        def remember(process: subprocess.Popen[bytes]) -> None:
            started.append(process)
            with self._change:
                self._running.add(process)
                if self._closed:  # meanwhile
                    _end(process)

        try:
            return run_words(words, log, cwd, env, remember)
        finally:
            with self._change:
                self._running.difference_update(started)
                self._free.append(env)
                self._change.notify_all()


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):  # it has ended
        process.send_signal(signal.SIGTERM)


def _slot_environment(slot: int, gpus: Sequence[str], threads: int) -> dict[str, str]:
    env = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return env


def _visible_gpus() -> list[str]:
    """Return the GPUs of this process as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [word for word in named.split(",") if word]
    return [str(number) for number in range(torch.cuda.device_count())]
