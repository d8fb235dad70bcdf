"""How long `gta --help` takes beside importing what it is made of; prints one JSON line.

    python benchmarks/startup.py [--runs 15]

Both are whole processes of this interpreter, interleaved; the figures are medians in seconds.
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


def seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(runs: int) -> dict[str, object]:
    """Medians, their ratio, and which heavy packages the help has loaded."""
    seconds(GTA), seconds(IMPORTS)  # the first run reads from the disk and writes bytecode
    pairs = [(seconds(GTA), seconds(IMPORTS)) for _ in range(runs)]
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
