"""Break `gta` on purpose and count what happens; prints JSON.

    python benchmarks/faults/run.py PART --seconds N [--work DIR] [--only NAME...] [--again]

The only part is fuzz (changed inputs). It appends to DIR/PART.jsonl and continues there when it is
started again; `--again` also repeats the units that showed a defect. The last line has the totals.
Linux only (`/proc`, `fork`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from records import Records

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PARTS = ("fuzz",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--work", type=Path, default=Path("/tmp/gta-faults"))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--inputs", type=int, default=3000, help="fuzz: of each kind")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    # Before the harness imports the package: the cache of the user is not touched.
    os.environ["GTA_CACHE"] = str(work / "cache")
    from fixtures import make_fixtures
    from records import Records

    make_fixtures(work)
    records = Records(work / f"{args.part}.jsonl", args.again, args.seconds)
    place = work / args.part
    place.mkdir(exist_ok=True)
    import fuzz

    fuzz.run(place, records, args.inputs, args.only)
    print(json.dumps({"part": args.part, **totals(records)}))


def totals(records: Records) -> dict[str, object]:
    """Sum what the units counted."""
    counts: dict[str, Counter[str]] = {}
    worst: dict[str, dict[str, float]] = {}
    for unit, record in records.done.items():
        name = unit.partition(":")[0]
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
