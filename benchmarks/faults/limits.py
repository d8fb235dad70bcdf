"""Let commands meet a limit of the machine at any change of the disk, go on, compare.

From the n-th change on the process gets no more memory, no more open files or no more threads. It
must end with its results, or with a documented status and one line of error; and then the
documented way on must give the files of an undisturbed run.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import Plan, differences
from commands import Gta, faults_of, hidden
from fixtures import made_fixtures
from kill import Reference
from records import Records
from writes import MOST, at_change, changes


def no_memory() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def no_handles() -> None:
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    free = next(number for number in itertools.count() if number not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))


def no_threads() -> None:
    """As `ulimit -u`, which root does not feel."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = refuse  # type: ignore[method-assign]


LIMITS: dict[str, Callable[[], None]] = {
    "memory": no_memory,
    "handles": no_handles,
    "threads": no_threads,
}


def run(place: Path, records: Records, every: int, only: list[str]) -> None:
    """Set every limit at every `every`-th change of every case that is one process."""
    fixtures = made_fixtures()
    gta = Gta(place, fork=True)
    reference = Reference(place, fixtures, gta)
    ends: dict[str, int] = {}
    units = [
        f"{case} {limit} {number}"
        for case, number in map(str.split, changes(every, only))
        for limit in LIMITS
    ]
    for unit in records.left(units):
        case, limit, number = unit.split()
        if int(number) > ends.get(case, MOST):
            continue
        whole, _ = reference(case)
        out = place / f"{case}-{limit}-{number}"
        shutil.rmtree(out, ignore_errors=True)
        plan = Plan(case, out, fixtures)
        act = LIMITS[limit]
        met = gta.run(plan.first, before=lambda: at_change(int(number), out, act))  # noqa: B023
        lines = met["err"].splitlines()
        if "open " not in met["err"] and not any(line.startswith("os.") for line in lines):
            ends[case] = int(number)  # there are fewer changes
            shutil.rmtree(out, ignore_errors=True)
            continue
        defects = faults_of(met)
        last = met if met["rc"] == 0 else gta.run(plan.on(auto=int(number) % 2 == 0))
        if last["rc"] != 0:
            defects.append(f"does not go on: {last['rc']}: {last['err'][-300:]}")
        if found := differences(whole, out):
            defects.append(f"results: {found[:5]}")
        if left := hidden(out):
            defects.append(f"left: {left[:5]}")
        totals = {"limits": 1, f"status {met['rc']}": 1}
        records.add(unit, defects, said=lines[-1:], totals=totals)
        if not defects:
            shutil.rmtree(out, ignore_errors=True)
