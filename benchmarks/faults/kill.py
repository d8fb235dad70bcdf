"""Kill commands at random moments, go on as documented, compare with an undisturbed run.

CHILD kills a process that the command has started (one that loads images, one of several that
train), as the system does when its memory is full. The command must end with one line of error.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from cases import CASES, Plan, differences, printed
from commands import Gta, end_group, faults_of, group, hidden, outcome
from fixtures import made_fixtures
from records import Records

SIGNALS = ("KILL", "TERM", "INT", "INT2", "CHILD")
NUMBERS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "CHILD": signal.SIGKILL}
PATIENCE_SECONDS = 60.0


class Reference:
    """The undisturbed run of each case, made once."""

    def __init__(self, work: Path, fixtures: Path, gta: Gta) -> None:
        self.work, self.fixtures, self.gta = work, fixtures, gta

    def __call__(self, case: str) -> tuple[Path, dict[str, Any]]:
        """Return the folder, and the outcome with its `seconds`."""
        out = self.work / f"reference-{case}"
        told = self.work / f"reference-{case}.json"
        if not told.is_file():
            shutil.rmtree(out, ignore_errors=True)
            done = self.gta.run(Plan(case, out, self.fixtures).first)
            if done["rc"] != 0:
                raise SystemExit(f"{case}: the undisturbed run fails: {done['last']}")
            told.write_text(json.dumps(done))
        return out, json.loads(told.read_text())


def run(place: Path, records: Records, trials: int, only: list[str]) -> None:
    """Do `trials` of every case with every signal; dear ones seldomer."""
    fixtures = made_fixtures()
    gta = Gta(place, fork=True)
    reference = Reference(place, fixtures, gta)
    units = [
        f"{case} {name} {trial}"
        for trial in range(trials)
        for case in CASES
        for name in SIGNALS
        if not only or case in only
        if name != "CHILD" or not CASES[case].exact
        if trial < -(-trials // CASES[case].cost)
    ]
    for unit in records.left(units):
        case, name, _ = unit.split()
        out = place / unit.replace(" ", "-")
        trial = Trial(gta, Plan(case, out, fixtures), reference(case), name, Random(unit))
        defects = trial.run()
        records.add(unit, defects, totals=dict(trial.totals), ways=trial.ways)
        if not defects:
            shutil.rmtree(out, ignore_errors=True)


class Trial:
    """One run that is killed once or twice and goes on.

    Attributes:
        totals: what was counted.
        ways: at which fraction of the undisturbed time it was killed, and what went on.
    """

    def __init__(
        self, gta: Gta, plan: Plan, reference: tuple[Path, dict[str, Any]], name: str, rng: Random
    ) -> None:
        self.gta, self.plan, self.signal, self.rng = gta, plan, name, rng
        self.whole, self.told = reference
        self.totals: Counter[str] = Counter()
        self.ways: list[str] = []

    def run(self) -> list[str]:
        """Return the defects."""
        out = self.plan.out
        shutil.rmtree(out, ignore_errors=True)
        words, defects, last = self.plan.first, list[str](), None
        for _ in range(self.rng.choice((1, 1, 2))):
            last = self.kill(words, defects)
            if last is not None:
                break
            words = self.plan.on(auto=self.rng.random() < 0.5)
        last = last or self.gta.run(words)
        self.ways.append(" ".join(words[:1] + words[-3:]))
        self.totals["trials"] += 1
        if last["rc"] != 0:
            defects.append(f"does not go on: {last['rc']}: {last['err'][-300:]}")
        if found := differences(self.whole, out):
            defects.append(f"results: {found[:5]}")
        elif (
            last["rc"] == 0
            and "--json" in words
            and printed(last["out"], out) != printed(self.told["out"], self.whole)
        ):
            defects.append("prints something else")
        if left := hidden(out):
            defects.append(f"left: {left[:5]}")
        if last["traceback"]:
            defects.append(f"traceback: {last['err'][-300:]}")
        self.totals["as undisturbed"] += not defects
        return defects

    def kill(self, words: list[str], defects: list[str]) -> dict[str, Any] | None:
        """Start, send the signal at a random moment; return the outcome if it had ended before."""
        share = self.rng.uniform(0.02, 1.0)
        alone = self.rng.random() < 0.5  # only the command itself, as a queue does it
        process = self.gta.start(words)
        start = time.monotonic()
        while process.poll() is None and time.monotonic() - start < share * self.told["seconds"]:
            time.sleep(0.003)
        while self.signal == "CHILD" and process.poll() is None and not children(process):
            time.sleep(0.003)
        ended = process.poll() is not None
        if not ended:
            ended = not self.send(process, alone)
        try:
            process.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            defects.append(f"hangs after {self.signal}")
        left = remaining(process)
        if left:
            defects.append(f"{len(left)} processes are left 5 s after {self.signal}")
        end_group(process)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        done = outcome(words, process.returncode, out, err, 0)
        if ended:
            return done
        self.totals["kills"] += 1
        self.totals[f"status {done['rc']}"] += 1
        self.ways.append(f"{share:.2f} {'alone' if alone else 'all'}")
        if self.signal == "CHILD":
            defects += faults_of(done)
        elif self.signal != "KILL" and done["rc"] not in (130, 0):
            defects.append(f"{self.signal} gives {done['rc']}: {done['err'][-300:]}")
        if done["traceback"]:
            defects.append(f"traceback: {done['err'][-300:]}")
        return None

    def send(self, process: Any, alone: bool) -> bool:
        """Send the signal; return whether there was a process for it."""
        number = NUMBERS.get(self.signal, signal.SIGINT)
        for again in range(1 + (self.signal == "INT2")):
            if again:
                time.sleep(self.rng.uniform(0.02, 0.5))
            below = children(process)
            if self.signal == "CHILD":
                targets = [self.rng.choice(below)] if below else []
            else:
                targets = [process.pid] if alone else [process.pid, *below]
            for pid in targets:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
        return bool(targets)


def children(process: Any) -> list[int]:
    return [pid for pid in group(process) if pid != process.pid]


def remaining(process: Any) -> list[int]:
    """Return the processes that a command has left after 5 s."""
    left = group(process)
    for _ in range(50):
        if not left:
            break
        time.sleep(0.1)
        left = group(process)
    return left
