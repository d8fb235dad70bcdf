"""Let commands die at every single change of the disk, go on as documented, compare.

The n-th change is the moment: before a file is opened for writing, renamed, removed, linked or cut,
before a folder is made or removed (so also after the change before it); and when half of a file, or
of a journal's line, is written.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import CASES, Plan, differences, printed
from commands import Gta, hidden
from fixtures import made_fixtures
from kill import Reference
from records import Records

EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
MOST = 400


def changes(every: int, only: list[str]) -> list[str]:
    """Return "CASE NUMBER" of every `every`-th change of every case that is one process."""
    return [
        f"{case} {number}"
        for number in range(1, MOST)
        for case in CASES
        if (case in only or not only) and CASES[case].exact
        if number % (every * CASES[case].cost) == 1 % every
    ]


def run(place: Path, records: Records, every: int, only: list[str]) -> None:
    """Die at every change (or at every `every`-th) of every case that is one process."""
    fixtures = made_fixtures()
    gta = Gta(place, fork=True)
    reference = Reference(place, fixtures, gta)
    ends: dict[str, int] = {}
    for unit in records.left(changes(every, only)):
        case, number = unit.split()
        if int(number) > ends.get(case, MOST):
            continue
        whole, told = reference(case)
        out = place / f"{case}-{number}"
        shutil.rmtree(out, ignore_errors=True)
        plan = Plan(case, out, fixtures)
        died = gta.run(plan.first, before=lambda out=out, n=int(number): dying(n, out))
        if died["rc"] == 0:  # there are fewer changes
            ends[case] = int(number)
            shutil.rmtree(out, ignore_errors=True)
            continue
        defects = []
        if died["rc"] != -signal.SIGKILL:
            defects.append(f"{died['rc']}: {died['err'][-300:]}")
        words = plan.on(auto=int(number) % 2 == 0)
        last = gta.run(words)
        if last["rc"] != 0:
            defects.append(f"does not go on: {last['rc']}: {last['err'][-300:]}")
        if found := differences(whole, out):
            defects.append(f"results: {found[:5]}")
        elif (
            last["rc"] == 0
            and "--json" in words
            and printed(last["out"], out) != printed(told["out"], whole)
        ):
            defects.append("prints something else")
        if left := hidden(out):
            defects.append(f"left: {left[:5]}")
        at = died["err"].strip().splitlines()[-1:]
        totals = {"kills": 1, "as undisturbed": int(not defects)}
        records.add(unit, defects, at=at, totals=totals)
        if not defects:
            shutil.rmtree(out, ignore_errors=True)


def at_change(number: int, out: Path, act: Callable[[], None]) -> Callable[[str], bool]:
    """Call `act` before the n-th change of a file below `out`, or below the cache.

    Returns a function that counts a further change, and says whether it is the n-th.
    """
    places = (str(out), os.environ["GTA_CACHE"])
    left = [number]

    def change(what: str) -> bool:
        """Count a change; return whether it is the moment."""
        left[0] -= 1
        if left[0] == 0:
            os.write(2, f"{what}\n".encode())
        return left[0] == 0

    def watch(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if not writes:
                return
        elif event in EVENTS:
            path = given[0]
        else:
            return
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if name.startswith(places) and change(f"{event} {name}"):
            act()

    sys.addaudithook(watch)
    return change


def dying(number: int, out: Path) -> None:
    """Let this process die at its n-th change of a file below `out`, or below the cache."""
    from gtacli.discovery.maps.journal import Journal
    from gtacli.inference.journal import ResultJournal
    from gtacli.runtime import atomic

    change = at_change(number, out, lambda: os.kill(os.getpid(), signal.SIGKILL))

    def half_of_draft(write: Callable[[Path], object]) -> Callable[[Path], object]:
        def half(draft: Path) -> None:
            write(draft)
            if change(f"half of {draft}"):
                os.truncate(draft, draft.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        return half

    real = atomic.replace_atomic

    def replace(path: Path, write: Callable[[Path], object], **options: Any) -> None:
        real(path, half_of_draft(write), **options)

    for module in list(sys.modules.values()):
        if getattr(module, "replace_atomic", None) is real:
            module.replace_atomic = replace  # type: ignore[attr-defined]
    half_of_line(ResultJournal, "add", change)
    half_of_line(Journal, "append", change)


def half_of_line(kind: type, name: str, change: Callable[[str], bool]) -> None:
    """Let a journal's entry be written by half when the moment has come."""
    real = getattr(kind, name)

    def add(self: Any, *given: Any, **named: Any) -> None:
        file = self._file
        before = file if file is None else os.fstat(file.fileno()).st_size
        real(self, *given, **named)
        if file is not None and change(f"half of an entry of {kind.__name__}"):
            file.flush()
            size = os.fstat(file.fileno()).st_size
            os.ftruncate(file.fileno(), (before + size) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(kind, name, add)
