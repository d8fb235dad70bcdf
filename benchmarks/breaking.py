"""Commands that are killed on purpose until they end, on an executor. Linux only (`/proc`)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXECUTORS = ("local", "slurm", "ray")


def gta(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "gtacli", *words], **options)


def commands_with(*needed: str) -> list[int]:
    """Return the processes of `gta` in whose words are all of these."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        one = b" ".join(words)
        if b"gtacli" in words and all(word.encode() in one for word in needed):
            found.append(int(path.parent.name))
    return found


def parent(pid: int) -> int | None:
    """Return the process that has started another one."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


@contextmanager
def cluster(executor: str, nodes: int = 2, cores: int = 1, **env: str) -> Iterator[dict[str, str]]:
    """Start what an executor needs; yield the environment of its commands.

    Args:
        nodes, cores: of Ray's cluster on this machine; they are names of places, not real cores.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    if executor != "ray":
        yield env
        return
    from ray.cluster_utils import Cluster

    os.environ.update(env)  # of the workers
    head = {"num_cpus": cores, "num_gpus": 0}
    started = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes - 1):
        started.add_node(**head)
    try:
        yield {**env, "RAY_ADDRESS": started.address}
    finally:
        started.shutdown()


@dataclass
class Killer:
    """Runs a command again and again, and kills it or a process that works for it.

    Args:
        words: of the command.
        targets: returns, by name, the processes that may be killed beside the command.
        kinds: what is killed, and by which signal: "command SIGKILL", "part SIGTERM".
        pause: least and most seconds between a start or a kill and the next kill.

    Attributes:
        counts: of the kills, by kind.
        starts: of the command.
        ends: the command's statuses that no kill explains, each with the last kill and the seconds
            since.
    """

    words: Sequence[str]
    targets: Callable[[], Mapping[str, Sequence[int]]]
    kinds: Sequence[str]
    pause: tuple[float, float]
    rng: random.Random
    counts: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    ends: list[tuple[int, str, float]] = field(default_factory=list)
    last: tuple[str, float] = ("none", 0.0)

    def run(
        self, kills: int, env: Mapping[str, str], log: Any, look: Callable[[], None] = lambda: None
    ) -> None:
        """Run the command until it ends by itself; `look` is called now and then."""
        self.counts = dict.fromkeys(self.kinds, 0)
        process, deadline = self._start(env, log), self._later()
        while True:
            time.sleep(0.2)
            look()
            status = process.poll()
            if status is not None and status not in (130, -signal.SIGKILL, -signal.SIGTERM):
                kind, moment = self.last
                self.ends.append((status, kind, round(time.monotonic() - moment, 1)))
            if status == 0:
                return
            if status is not None:
                process, deadline = self._start(env, log), self._later()
            elif time.monotonic() > deadline and sum(self.counts.values()) < kills:
                self._kill(process)
                deadline = self._later()

    def _start(self, env: Mapping[str, str], log: Any) -> subprocess.Popen[bytes]:
        self.starts += 1
        return gta(*self.words, env=env, stdout=log, stderr=log)

    def _later(self) -> float:
        return time.monotonic() + self.rng.uniform(*self.pause)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        running = {"command": [process.pid], **self.targets()}
        kind = self.rng.choice([kind for kind in self.kinds if running.get(kind.split()[0])])
        name, number = kind.split()
        try:
            os.kill(self.rng.choice(running[name]), getattr(signal, number))
        except ProcessLookupError:
            return
        self.counts[kind] += 1
        self.last = (kind, time.monotonic())
