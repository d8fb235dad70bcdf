"""Compare the time of `gta --help` with that of importing typer and rich; prints one JSON line.

    python benchmarks/startup.py [--runs 15]

Both are complete processes of this interpreter, interleaved; the seconds are medians, the ratio is
of CPU time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial

from interleaved import time_interleaved

CODE = {
    "help": "import sys; from gtacli.cli import main; sys.exit(main(['--help']))",
    "imports": "import typer, rich",
}
LOADED = (
    "import sys; from gtacli.cli import main; main(['--help']); "
    "print(*sorted({'torch', 'pydantic'} & set(sys.modules)), file=sys.stderr)"
)


def run(code: str) -> None:
    """Run a Python process."""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def measure(runs: int) -> dict[str, object]:
    """Return medians, their ratio, and the heavy packages that the help has imported."""
    # The first run, which does not count, reads from disk and writes bytecode.
    timings = time_interleaved({name: partial(run, code) for name, code in CODE.items()}, runs)
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], check=True, capture_output=True, text=True
    ).stderr.split()
    return {
        "benchmark": "startup",
        **{f"{name}_s": round(seconds, 4) for name, seconds in timings.medians().items()},
        "ratio": timings.ratio("help", "imports"),
        "loaded": loaded,
        "runs": runs,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    print(json.dumps(measure(parser.parse_args().runs)))
