"""Compare the time of `gta --help` with that of importing typer and rich; prints one JSON line.

    python benchmarks/startup.py [--runs 15]

Both are complete processes of this interpreter, interleaved; the values are medians in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

GTA = "import sys; from gtacli.cli import main; sys.exit(main(['--help']))"
IMPORTS = "import typer, rich"
LOADED = (
    "import sys; from gtacli.cli import main; main(['--help']); "
    "print(*sorted({'torch', 'pydantic'} & set(sys.modules)), file=sys.stderr)"
)


def run_seconds(code: str) -> float:
    """Return the duration of a Python process that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(runs: int) -> dict[str, object]:
    """Return medians, their ratio, and the heavy packages that the help has imported."""
    run_seconds(GTA), run_seconds(IMPORTS)  # the first run reads from disk and writes bytecode
    pairs = [(run_seconds(GTA), run_seconds(IMPORTS)) for _ in range(runs)]
    help_s, imports_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], check=True, capture_output=True, text=True
    ).stderr.split()
    return {
        "benchmark": "startup",
        "help_s": round(help_s, 4),
        "imports_s": round(imports_s, 4),
        "ratio": round(help_s / imports_s, 3),
        "loaded": loaded,
        "runs": runs,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    print(json.dumps(measure(parser.parse_args().runs)))
