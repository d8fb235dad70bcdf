"""Parts of the work of a command, handed out to an executor as commands of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from gtacli.cli import console
from gtacli.config.base import build
from gtacli.config.common import CommandConfig
from gtacli.config.toml import to_toml
from gtacli.errors import Interrupted, RunError
from gtacli.registry import EXECUTORS
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.interrupts import StopSignal

POLL_SECONDS = 0.2
DEFAULT_SHARDS = 8
"""Parts where the engine has a queue of its own and no number of jobs is given."""


def run_shards(
    name: str,
    jobs: int | None,
    command: str,
    config: CommandConfig,
    words: Sequence[str] = (),
    *,
    folder: Path,
) -> None:
    """Run a command in parts (`shard=I/N`) on an executor, and wait for them.

    Args:
        name: of the executor.
        jobs: number of parts; None: as many as run at a time.
        command: such as "probe knn".
        config: of the command, without the executor.
        words: further words of its command line.
        folder: for the recipe that the parts share, and their logs.

    Raises UsageError for an unknown executor, RunError for a part that failed, Interrupted.
    """
    kind = EXECUTORS.load(name)
    executor = kind(build(kind.Options, {}), jobs, folder)
    key = command.replace(" ", "-")
    recipe = folder / f"{key}.toml"
    text = to_toml(config, command)
    write_atomic(recipe, lambda draft: draft.write_text(text, encoding="utf-8"))
    count = jobs or executor.slots or DEFAULT_SHARDS
    own = [*command.split(), *words, "--recipe", str(recipe), "--json"]
    logs = [folder / f"{number}-of-{count}.log" for number in range(count)]
    with StopSignal() as stop, console.progress("shards", count) as advance:
        running = [
            executor.submit([*own, "--shard", f"{number}/{count}"], path)
            for number, path in enumerate(logs)
        ]
        left = set(range(count))
        while left and not stop.requested:
            done = {number for number in left if running[number].done()}
            advance(len(done))
            left -= done
            time.sleep(POLL_SECONDS)
        executor.close()
    if stop.requested:
        raise Interrupted("interrupted; what is done is cached, and the same command continues")
    for job, path in zip(running, logs, strict=True):
        status = job.result()
        if status not in (0, 1):  # 1: unreadable images, which this command names again
            raise RunError(f"a shard ended with status {status}; its log is {path}")
