"""Print the results of `gpu.sh` as a Markdown table.

    python benchmarks/gpu_table.py FOLDER/results.jsonl

A row is a ratio (with its interval over the repeats), a ratio of memory, or a rate of images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import describe, machine, number

PLAIN = ("images_per_second", "memory_ratio")


def rows(line: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the path, the value and the interval of each number to show."""
    for name, value in line.items():
        here = f"{path}{name}"
        if not isinstance(value, dict):
            if path.startswith(PLAIN):
                yield here, number(value), ""
        elif value.get("low") == value.get("high") == 1:  # a variant beside itself
            continue
        elif "median" in value:
            yield (
                here,
                number(value["median"]),
                f"{number(value['low'])} to {number(value['high'])}",
            )
        else:
            yield from rows(value, f"{here}: ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    lines = [json.loads(line) for line in parser.parse_args().results.read_text().splitlines()]
    print(f"{machine(describe(None))}:", "", "| part | what | median | interval |", sep="\n")
    print("|---|---|---|---|")
    for line in lines:
        for what, median, interval in rows(line):
            print(f"| {line['part']} | {what} | {median} | {interval} |")


if __name__ == "__main__":
    main()
