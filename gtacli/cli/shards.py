"""Parts of the work of a command, handed out to an executor as commands of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gtacli.cli import console
from gtacli.config.base import build
from gtacli.config.common import CommandConfig
from gtacli.config.toml import to_toml
from gtacli.errors import Interrupted
from gtacli.executors.parts import Part, run_parts
from gtacli.registry import EXECUTORS
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.interrupts import StopSignal
from gtacli.runtime.ownership import owned

DEFAULT_SHARDS = 8
"""Parts where the engine has a queue of its own and no number of jobs is given."""


def run_shards(
    name: str,
    options: Mapping[str, Any],
    jobs: int | None,
    command: str,
    config: CommandConfig,
    words: Sequence[str] = (),
    *,
    folder: Path,
    most: int | None = None,
    at_work: Callable[[tuple[int, int]], bool] = lambda shard: False,
) -> None:
    """Run a command in parts (`shard=I/N`) on an executor, and wait for them.

    Args:
        name: of the executor.
        options: of the executor.
        jobs: number of parts; None: as many as run at a time.
        command: such as "probe knn".
        config: of the command, without the executor.
        words: further words of its command line.
        folder: for a folder with the recipe that the parts share, and their logs.
        most: number of parts beyond which they have no images.
        at_work: returns whether a process works on a part (I, N) already.

    Raises UsageError for an unknown executor and where another command has handed out these parts,
    RunError for a part that failed, Interrupted.
    """
    kind = EXECUTORS.load(name)
    read = build(kind.Options, options, f"executors.{name}")
    text = to_toml(config, command)
    # By their content, as commands with other options may share the folder.
    own = folder / f"{command.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    with owned(own, command), StopSignal() as stop:
        if jobs is not None and most is not None:
            jobs = min(jobs, most)
        executor = kind(read, jobs, own)
        recipe = own / "recipe.toml"
        write_atomic(recipe, lambda draft: draft.write_text(text, encoding="utf-8"))
        count = jobs or executor.slots or DEFAULT_SHARDS
        count = count if most is None else min(count, most)
        given = [*command.split(), *words, "--recipe", str(recipe), "--json", "--shard"]
        parts = [
            Part(
                f"shard {number}/{count}",
                [*given, f"{number}/{count}"],
                own / f"{number}-of-{count}.log",
                lambda number=number: at_work((number, count)),  # type: ignore[misc]
            )
            for number in range(count)
        ]
        with console.progress("shards", count) as advance:
            run_parts(executor, parts, lambda: stop.requested, advance)
    if stop.requested:
        raise Interrupted("interrupted; what is done is cached, and the same command continues")
