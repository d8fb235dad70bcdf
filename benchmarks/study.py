"""Break a study on purpose, and measure how long its workers wait; prints JSON.

    python benchmarks/study.py kills WORK --executor local|slurm|ray [--kills 10]
    python benchmarks/study.py idle [--jobs 4]

`kills`: a study of the demo is killed at random moments, until it has been killed often enough and
ends: its command (SIGKILL, SIGTERM) or one of its cells (SIGKILL). Its table must be that of an
undisturbed study, and a cell that was finished must never run again. `slurm` is submitit's local
engine, `ray` a cluster of two nodes of one core each on this machine. Linux only (`/proc`).

`idle`: cells of unequal length, which sleep, on `--jobs` workers: the share of the workers' time in
which they had no cell.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from breaking import EXECUTORS, Killer, cluster, commands_with, gta

STUDY = """
command = "finetune"
[fixed]
data = "demo"
model = "demo"
epochs = 3
device = "cpu"
workers = 0
[grid]
seed = [0, 1]
shots = [2]
[method.none]
regularizer = ["none"]
[method.gta]
lam = 0.1
[[then]]
command = "probe knn"
[executor.slurm]
cluster = "local"
gpus = 0
cpus = 1
"""


def table(folder: Path) -> Any:
    """Return the table without what the clock says."""
    done = gta("study", "table", str(folder), "--json", stdout=subprocess.PIPE)
    text, _ = done.communicate()
    return re.sub(r'"seconds": [\d.]+', '"seconds": 0', text.decode())


def cells(folder: Path) -> list[int]:
    """Return the processes that run cells of a study."""
    return commands_with("cell", str(folder))


def finished(folder: Path) -> dict[str, bytes]:
    """Return the records of the cells that have a result."""
    texts = {p.name: p.read_bytes() for p in (folder / "records").glob("*.json")}
    return {name: text for name, text in texts.items() if b'"result": {' in text}


def kills(args: argparse.Namespace) -> dict[str, Any]:
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    file = work / "study.toml"
    file.write_text(STUDY)
    whole, broken = work / "whole", work / f"broken-{args.executor}"
    if not (whole / "done").exists():
        shutil.rmtree(whole, ignore_errors=True)
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        words = ("study", "run", str(file), "-o", str(whole), "--jobs", "2", "-q", "--json")
        assert gta(*words, env=env, stdout=2).wait() == 0
        (whole / "done").touch()
    shutil.rmtree(broken, ignore_errors=True)
    again, before = 0, {}

    def look() -> None:
        nonlocal again, before
        now = finished(broken)
        again += sum(now.get(name) != text for name, text in before.items())
        before = now

    words = ["study", "run", str(file), "-o", str(broken), "--executor", args.executor]
    words += ["--jobs", "2"] if args.executor != "ray" else []
    kinds = ("command SIGKILL", "command SIGTERM", "cell SIGKILL")
    killer = Killer(
        words, lambda: {"cell": cells(broken)}, kinds, (5, 30), random.Random(args.seed)
    )
    with cluster(args.executor) as env, (work / f"{args.executor}.log").open("wb") as log:
        killer.run(args.kills, env, log, look)
    time.sleep(1)
    left = [p.name for p in broken.rglob(".gta-*")]
    return {
        "what": "kills",
        "executor": args.executor,
        "kills": killer.counts,
        "starts of the command": killer.starts,
        "cells": len(before),
        "finished cells that ran again": again,
        "same table": table(broken) == table(whole),
        "drafts and locks left": left,
        "processes left": len(cells(broken)),
    }


def idle(args: argparse.Namespace) -> dict[str, Any]:
    from gtacli.config.study import read_study
    from gtacli.executors.base import Executor, ExecutorOptions, Job, ThreadJob
    from gtacli.study.code import code_digest
    from gtacli.study.drive import drive
    from gtacli.study.folder import CellRecord, StudyFolder
    from gtacli.study.plan import make_plan

    text = 'command = "finetune"\n[fixed]\ndata = "demo"\n[grid]\nseed = [0, 1, 2]\n'
    text += "".join(f"[method.m{n}]\n" for n in range(args.methods))
    rng = random.Random(0)
    length = {f"m{n}": args.seconds * 10 ** rng.uniform(-1, 0) for n in range(args.methods)}

    class Sleeping(Executor[ExecutorOptions]):
        slots = args.jobs

        def submit(self, words: Sequence[str], log: Path) -> Job:
            folder, name = StudyFolder(Path(words[2])), words[3]
            return ThreadJob(lambda: self.run(folder, name))

        def run(self, folder: StudyFolder, name: str) -> int:
            cell, began = folder.plan.cells[name], time.monotonic()
            time.sleep(length[cell.method])
            record = CellRecord(
                command=cell.command,
                settings=dict(cell.settings),
                code=code_digest(),
                result={"test_top1": 0.5},
                seconds=time.monotonic() - began,
            )
            folder.write_record(name, record)
            return 0

    class Nobody:
        def started(self, cell: Any) -> None: ...

        def ended(self, cell: Any, state: Any, done: int, left: float | None) -> None: ...

    shares = []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as path:
            folder = StudyFolder(Path(path))
            folder.begin(text, make_plan(read_study(text, "s.toml"), "s.toml"), {})
            began = time.monotonic()
            course = drive(folder, Sleeping(ExecutorOptions(), args.jobs, Path(path)), Nobody())
            wall = time.monotonic() - began
            assert len(course.ran) == 3 * args.methods
            busy = 3 * sum(length.values())
            shares.append(1 - busy / (wall * args.jobs))
    return {
        "what": "idle",
        "cells": 3 * args.methods,
        "jobs": args.jobs,
        "longest to shortest": round(max(length.values()) / min(length.values()), 1),
        "idle share": [round(share, 4) for share in shares],
        "median": round(statistics.median(shares), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("kills")
    one.add_argument("work", type=Path)
    one.add_argument("--executor", choices=EXECUTORS, default="local")
    one.add_argument("--kills", type=int, default=10)
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=kills)
    two = parts.add_parser("idle")
    two.add_argument("--jobs", type=int, default=4)
    two.add_argument("--methods", type=int, default=12)
    two.add_argument("--seconds", type=float, default=4.0, help="of the longest cell")
    two.add_argument("--repeats", type=int, default=3)
    two.set_defaults(run=idle)
    args = parser.parse_args()
    print(json.dumps(args.run(args)), flush=True)


if __name__ == "__main__":
    main()
