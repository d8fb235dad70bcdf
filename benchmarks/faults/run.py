"""Break `gta` on purpose and count what happens; prints JSON.

    python benchmarks/faults/run.py PART --seconds N [--work DIR] [--only NAME...] [--again]

Parts: fuzz (changed inputs), kill (at random moments), writes (killed at every change of the disk),
limits (of memory, open files and threads), names (odd ones, and special files), pairs (two commands
on one folder), same (equal commands, equal files). Each appends to DIR/PART.jsonl and continues
there when it is started again; `--again` also repeats the units that showed a defect. The last line
has the totals; `table` prints those of all parts. Linux only (`/proc`, `fork`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from records import Records

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARTS = ("fuzz", "kill", "writes", "limits", "names", "pairs", "same", "table")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--work", type=Path, default=Path("/tmp/gta-faults"))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--inputs", type=int, default=3000, help="fuzz: of each kind")
    parser.add_argument("--trials", type=int, default=4, help="kill: of each command and signal")
    parser.add_argument(
        "--every", type=int, default=1, help="writes, limits: every n-th change of the disk"
    )
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if args.part == "table":
        from table import print_tables

        print_tables(work)
        return
    # A shell lets what it starts in the background ignore it, and so would every command here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before the harness imports the package: the cache of the user is not touched.
    os.environ["GTA_CACHE"] = str(work / "cache")
    from fixtures import make_fixtures
    from records import Records

    make_fixtures(work)
    records = Records(work / f"{args.part}.jsonl", args.again, args.seconds)
    place = work / args.part
    place.mkdir(exist_ok=True)
    if args.part == "fuzz":
        import fuzz

        fuzz.run(place, records, args.inputs, args.only)
    elif args.part == "kill":
        import kill

        kill.run(place, records, args.trials, args.only)
    elif args.part == "writes":
        import writes

        writes.run(place, records, args.every, args.only)
    elif args.part == "limits":
        import limits

        limits.run(place, records, args.every, args.only)
    else:
        import names
        import pairs
        import same

        {"names": names, "pairs": pairs, "same": same}[args.part].run(place, records, args.only)
    print(json.dumps({"part": args.part, **totals(records)}))


def totals(records: Records) -> dict[str, object]:
    """Sum what the units counted."""
    counts: dict[str, Counter[str]] = {}
    worst: dict[str, dict[str, float]] = {}
    for unit, record in records.done.items():
        name = re.split("[: ]", unit)[0]
        counts.setdefault(name, Counter()).update(record.get("totals", {}))
        high = worst.setdefault(name, {})
        for key in ("slowest_seconds", "most_mb"):
            high[key] = max(high.get(key, 0), record.get(key, 0))
    with_defects = [unit for unit, record in records.done.items() if record["defects"]]
    return {
        "units": len(records.done),
        "totals": dict(sum(counts.values(), Counter())),
        "by_name": {
            name: {"inputs": sum(own.values()), **own, **worst[name]}
            for name, own in counts.items()
        },
        "units_with_defects": with_defects,
    }


if __name__ == "__main__":
    main()
