"""The results of the harness: JSON Lines that grow, so that an interrupted part continues."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class Records:
    """The results of a part, one line per unit of work; the last line of a unit counts.

    Args:
        again: units that showed a defect are to be done once more.
        seconds: no unit is started later than this.
    """

    def __init__(self, path: Path, again: bool, seconds: float) -> None:
        self.path, self.again = path, again
        self.end = time.monotonic() + seconds
        self.done: dict[str, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.done[record["unit"]] = record
        self.rerun = {u for u, r in self.done.items() if r["defects"]} if again else set()

    def left(self, units: Iterable[str]) -> Iterator[str]:
        """Yield the units that are to be done, until the time is over."""
        for unit in units:
            if time.monotonic() > self.end:
                return
            if unit not in self.done or unit in self.rerun:
                yield unit

    def add(self, unit: str, defects: list[str], **record: Any) -> None:
        record = {"unit": unit, "defects": defects, **record}
        self.done[unit] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if defects:
            print(json.dumps(record), flush=True)
