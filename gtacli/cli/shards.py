"""Parts of the work of `gta discover`, on an executor."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from gtacli.cli import console
from gtacli.cli.options import Call
from gtacli.config.base import build
from gtacli.config.discover import DiscoverConfig
from gtacli.config.toml import to_toml
from gtacli.errors import Interrupted, RunError, UsageError
from gtacli.registry import EXECUTORS
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.interrupts import StopSignal

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2
DEFAULT_SHARDS = 8
"""Parts where the engine has a queue of its own and no number of jobs is given."""


def run_shards(config: DiscoverConfig, call: Call, images: Sequence[str]) -> None:
    """Compute all maps in parts, each a command of its own, and wait for them.

    Raises UsageError for images on stdin, RunError for a part that failed, Interrupted.
    """
    assert config.executor is not None
    assert config.out is not None
    if "-" in images:
        raise UsageError(
            "takes no images from stdin, which its commands do not share; name files",
            option="executor",
        )
    folder = config.out.with_name(f"{config.out.name}-shards")
    kind = EXECUTORS.load(config.executor)
    executor = kind(build(kind.Options, {}), config.jobs, folder)
    recipe = folder / "discover.toml"
    plain = config.model_copy(update={"executor": None, "jobs": None, "overwrite": False})
    text = to_toml(plain, "discover")
    write_atomic(recipe, lambda draft: draft.write_text(text, encoding="utf-8"))
    count = config.jobs or executor.slots or DEFAULT_SHARDS
    words = ["discover", *images, "--recipe", str(recipe), "--json"]
    logs = [folder / f"{number}-of-{count}.log" for number in range(count)]
    with StopSignal() as stop, console.progress("shards", count) as advance:
        jobs = [
            executor.submit([*words, "--shard", f"{number}/{count}"], path)
            for number, path in enumerate(logs)
        ]
        left = set(range(count))
        while left and not stop.requested:
            done = {number for number in left if jobs[number].done()}
            advance(len(done))
            left -= done
            time.sleep(POLL_SECONDS)
        executor.close()
    if stop.requested:
        raise Interrupted("interrupted; the maps so far are cached, and the same command continues")
    for job, path in zip(jobs, logs, strict=True):
        status = job.result()
        if status not in (0, 1):  # 1: unreadable images, which this command names again
            raise RunError(f"a shard ended with status {status}; its log is {path}")
