"""Compare commands on one photograph with importing torch and timm; prints one JSON line.

    python benchmarks/first_result.py [--repeats 7] [--commands predict segment]

CPU seconds of complete processes of this interpreter (user and system), interleaved; the values are
medians. The photograph is drawn unless `--image` names one; a model `NAME@none` has random weights.
`imports` is `import torch, timm` alone: what a program costs that computes nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

from interleaved import time_interleaved
from maps import save_random_model
from PIL import Image

from gtacli.scenes.trials import draw_trial

IMPORTS = ["-c", "import torch, timm"]
COMMANDS = {
    "predict": ["predict"],
    "attention-map": ["attention-map", "--out", "{out}"],
    "segment": ["segment", "--out", "{out}"],
    "embed": ["embed", "--out", "{out}/embeddings.npz"],
}


def run(words: list[str]) -> None:
    """Run a Python process."""
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def run_command(name: str, given: list[str], folder: Path, numbers: count[int]) -> None:
    """Run a command that writes into a folder of its own."""
    out = folder / f"{name}-{next(numbers)}"
    out.mkdir()
    run(["-m", "gtacli", *(word.format(out=out) for word in COMMANDS[name]), *given])


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Return medians, and ratios to the imports of the same round."""
    with tempfile.TemporaryDirectory() as name:
        folder, image = Path(name), args.image
        if image is None:
            image = folder / "drawn.jpg"
            Image.fromarray(draw_trial(0, 480)[0]).save(image, quality=90)
        given = [str(image), "--model", save_random_model(args.model, folder), "--quiet"]
        commands = {c: partial(run_command, c, given, folder, count()) for c in args.commands}
        # The first run, which does not count, reads from disk and writes bytecode.
        timings = time_interleaved({"imports": partial(run, IMPORTS), **commands}, args.repeats)
    return {
        "benchmark": "first_result",
        "model": args.model,
        "repeats": args.repeats,
        "cpu_s": {name: round(statistics.median(taken), 2) for name, taken in timings.cpu.items()},
        "ratio": {name: timings.ratio(name, "imports") for name in args.commands},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--model", default="vit_tiny_patch16_224@none")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--repeats", type=int, default=7)
    print(json.dumps(measure(parser.parse_args())))
