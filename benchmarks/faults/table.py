"""Print what the parts have counted as tables of Markdown."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

SIGNALS = {"KILL": "SIGKILL", "TERM": "SIGTERM", "INT": "Ctrl-C", "INT2": "Ctrl-C twice"}
CHILD = "SIGKILL of a process that it has started at a random moment"
FUZZ = ("accepted", "refused", "unforeseen", "wrong", "silent", "hang", "memory", "died")

LIMITS = {
    "memory": "no more memory",
    "handles": "no more open files",
    "threads": "no more threads",
}


def print_tables(work: Path) -> None:
    """Print the tables of the parts that have results in a folder."""
    kills, writes, pairs = (read(work / f"{part}.jsonl") for part in ("kill", "writes", "pairs"))
    print("| fault | commands with options | tried | as undisturbed |\n|---|---|---|---|")
    for name, text in SIGNALS.items():
        some = {u: r for u, r in kills.items() if u.split()[1] == name}
        row(f"{text} at a random moment", some, "kills")
    row(CHILD, {u: r for u, r in kills.items() if u.split()[1] == "CHILD"}, "kills")
    row("killed at a change of the disk", writes, "kills")
    limits = read(work / "limits.jsonl")
    for name in LIMITS:
        some = {u: r for u, r in limits.items() if u.split()[1] == name}
        row(f"{LIMITS[name]} at a change of the disk", some, "limits")
    odd = read(work / "names.jsonl")
    good = sum(not record["defects"] for record in odd.values())
    print(f"\n{len(odd)} commands on odd names and special files, {good} as promised.")
    total = summed(pairs)
    ways = ", ".join(f"{n} {k}" for k, n in total.items() if k != "pairings" and n)
    print(f"\n{total['pairings']} pairings: {ways}.")
    changed = read(work / "fuzz.jsonl")
    if changed:
        print("\n| changed | inputs |", " | ".join(FUZZ), "|\n|---|---|" + "---|" * len(FUZZ))
        kinds = sorted({unit.partition(":")[0] for unit in changed})
        for kind in kinds:
            own = summed({u: r for u, r in changed.items() if u.partition(":")[0] == kind})
            print(f"| {kind} | {sum(own.values()):,} |", cells(own), "|")
        everything = summed(changed)
        print(f"| all | {sum(everything.values()):,} |", cells(everything), "|")


def cells(counts: Counter[str]) -> str:
    return " | ".join(f"{counts[name]:,}" for name in FUZZ)


def row(text: str, records: dict[str, dict[str, Any]], tried: str) -> None:
    """Print a line: a unit that is not as undisturbed loses all its kills."""
    commands = len({re.split("[: ]", unit)[0] for unit in records})
    survived = summed({u: r for u, r in records.items() if not r["defects"]})[tried]
    print(f"| {text} | {commands} | {summed(records)[tried]:,} | {survived:,} |")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the last result of every unit."""
    if not path.is_file():
        return {}
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {record["unit"]: record for record in lines}


def summed(records: dict[str, dict[str, Any]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for record in records.values():
        counts.update(record.get("totals", {}))
    return counts
