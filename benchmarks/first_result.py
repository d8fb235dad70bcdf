"""Compare commands on one photograph with importing torch and timm; prints one JSON line.

    python benchmarks/first_result.py [--repeats 7] [--commands predict segment]

CPU seconds of complete processes of this interpreter (user and system), interleaved; the values are
medians. The photograph is drawn, the network is timm's of random weights, unless `--image` and
`--model` name others. `imports` is `import torch, timm` alone: what a program costs that computes
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import timm
from interleaved import median_interval, ratios
from PIL import Image
from safetensors.torch import save_file

IMPORTS = ["-c", "import torch, timm"]
COMMANDS = {
    "predict": ["predict"],
    "attention-map": ["attention-map", "--out", "{out}"],
    "segment": ["segment", "--out", "{out}"],
    "embed": ["embed", "--out", "{out}/embeddings.npz"],
}


def cpu_seconds(words: list[str]) -> float:
    """Return the CPU time of a Python process."""
    before = os.times()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = os.times()
    return sum(getattr(after, k) - getattr(before, k) for k in ("children_user", "children_system"))


def draw(folder: Path) -> Path:
    """Return a JPEG file of the size of a photograph."""
    file = folder / "drawn.jpg"
    noise = Image.effect_noise((40, 30), 64).resize((640, 480), Image.Resampling.BICUBIC)
    noise.convert("RGB").save(file)
    return file


def write_weights(folder: Path) -> str:
    """Return the spec of a ViT-Tiny with a classifier, of random weights in a file."""
    name, file = "vit_tiny_patch16_224", folder / "drawn.safetensors"
    save_file(timm.create_model(name).state_dict(), file)
    return f"{name}@{file}"


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Return medians, and ratios to the imports of the same round."""
    seconds: dict[str, list[float]] = {name: [] for name in ("imports", *args.commands)}
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or write_weights(Path(folder))
        given = [str(args.image or draw(Path(folder))), "--model", model, "--quiet"]
        for repeat in range(args.repeats + 1):  # the first reads from disk and writes bytecode
            taken = {"imports": cpu_seconds(IMPORTS)}
            for name in args.commands:
                out = Path(folder, f"{name}-{repeat}")
                out.mkdir()
                words = [word.format(out=out) for word in COMMANDS[name]]
                taken[name] = cpu_seconds(["-m", "gtacli", *words, *given])
            for name in taken if repeat else ():
                seconds[name].append(taken[name])
    return {
        "benchmark": "first_result",
        "model": args.model or "ViT-Tiny",
        "repeats": args.repeats,
        "cpu_s": {name: round(statistics.median(taken), 2) for name, taken in seconds.items()},
        "ratio": {
            name: median_interval(ratios(seconds[name], seconds["imports"]))
            for name in args.commands
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--repeats", type=int, default=7)
    print(json.dumps(measure(parser.parse_args())))
