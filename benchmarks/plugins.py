"""Compare `gta --help` and `gta plugins list` with and without plug-ins; prints one JSON line.

    python benchmarks/plugins.py [--plugins 20] [--runs 15]

The plug-ins are metadata of distributions on the path, with a part in each of two groups. All are
complete processes of this interpreter, interleaved; the values are medians in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from interleaved import time_interleaved

CODE = "import sys; from gtacli.cli import main; sys.exit(main(sys.argv[1:]))"
COMMANDS = {"help": ["--help"], "list": ["plugins", "list"]}


def write_plugins(site: Path, count: int) -> None:
    """Write the metadata of `count` installed plug-ins."""
    for i in range(count):
        info = site / f"gta_plugin_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: gta-plugin-{i}\nVersion: 1.0\n"
            "Requires-Dist: gtacli>=0.1\n"
        )
        (info / "entry_points.txt").write_text(
            f"[gta.regularizers]\nplugin-{i} = plugin_{i}:Part\n"
            f"[gta.datasets]\nplugin-{i} = plugin_{i}:Reader\n"
        )


def run(words: list[str], path: str) -> None:
    """Run a command in a process with a folder on its path."""
    subprocess.run(
        [sys.executable, "-c", CODE, *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )


def measure(count: int, runs: int) -> dict[str, object]:
    """Return the seconds of each command without and with plug-ins, and the ratio of CPU time."""
    result: dict[str, object] = {"benchmark": "plugins", "plugins": count, "runs": runs}
    with tempfile.TemporaryDirectory() as none, tempfile.TemporaryDirectory() as many:
        write_plugins(Path(many), count)
        timings = time_interleaved(
            {
                f"{name}{suffix}": partial(run, words, path)
                for name, words in COMMANDS.items()
                for suffix, path in (("", none), ("_with", many))
            },
            runs,
        )
    for name, seconds in timings.medians().items():
        result[f"{name}_s"] = round(seconds, 4)
    for name in COMMANDS:
        pairs = zip(timings.wall[name], timings.wall[f"{name}_with"], strict=True)
        result[f"{name}_more_ms"] = round(1000 * statistics.median(b - a for a, b in pairs), 1)
        result[f"{name}_ratio"] = timings.ratio(f"{name}_with", name)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugins", type=int, default=20)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.plugins, arguments.runs)))
