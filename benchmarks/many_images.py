"""Time the first result of commands on a list of a million images; prints one JSON line.

    python benchmarks/many_images.py [--images 1000000] [--few 10000] [--repeats 3]

The images are hard links of a few drawn ones, in folders of a thousand, which a table names. Each
command runs until its first line of results, then it is ended: commands that write no line for an
image make a dry run of one batch. Seconds of the clock and of the CPU, and the most memory, with
`--images` and with `--few`, interleaved; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from maps import save_random_model
from PIL import Image

from gtacli.scenes.trials import draw_trial

IN_FOLDER = 1000
DRAWN = 20
TRAINED = ["--image-size", "64", "--dry-run"]
# {list}: paths on stdin; {table}: the table; {folder}: the folder of folders.
COMMANDS = {
    "attention-map": ["attention-map", "-", "--out", "{out}", "--model", "{model}"],
    "segment": ["segment", "-", "--out", "{out}", "--model", "{model}"],
    "segment --data": ["segment", "--data", "{table}", "--out", "{out}", "--model", "{model}"],
    "discover": ["discover", "-", "--out", "{out}", "--model", "{model}", "--dry-run"],
    "discover --data": [
        *("discover", "--data", "{table}", "--out", "{out}", "--model", "{model}", "--dry-run")
    ],
    "finetune": ["finetune", "--data", "{table}", "--model", "{model}", *TRAINED],
    "finetune folder": ["finetune", "--data", "{folder}", "--model", "{model}", *TRAINED],
    "pretrain": ["pretrain", "--data", "{table}", "--model", "{name}", *TRAINED],
}


class First(NamedTuple):
    """When the first line came, and what the process had used by then."""

    wall: float
    cpu: float
    megabytes: float


def link_images(folder: Path, drawn: list[Path], count: int) -> None:
    """Write folders of hard links, a table `images.csv` and a list `images.txt` of them."""
    photos = folder / "photos"
    with open(folder / "images.csv", "w") as table, open(folder / "images.txt", "w") as listed:
        table.write("path,label\n")
        for number in range(count):
            below, name = divmod(number, IN_FOLDER)
            one = photos / f"{below:05}"
            if name == 0:
                one.mkdir(parents=True)
            path = one / f"{name:03}.jpg"
            os.link(drawn[number % len(drawn)], path)
            table.write(f"photos/{below:05}/{name:03}.jpg,c{number % 100}\n")
            listed.write(f"{path}\n")


def first_line(words: list[str], stdin: Path) -> First:
    """Run a command until its first line of results. Raises RuntimeError if it prints none."""
    start = time.perf_counter()
    with open(stdin) as given, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "gtacli", *words, "--json"],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        wall = time.perf_counter() - start
        process.kill()
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0  # it has been waited for
        process.stdout.close()
        if not line:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(words)}: {errors.read().decode()[-500:]}")
    return First(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Return the medians by command and number of images."""
    found: dict[tuple[str, str], list[First]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        top = Path(name)
        drawn = []
        for number in range(DRAWN):
            drawn.append(top / f"{number}.jpg")
            Image.fromarray(draw_trial(number, 128)[0]).save(drawn[-1])
        sizes = {"many": args.images, "few": args.few}
        for size, count in sizes.items():
            (top / size).mkdir()
            link_images(top / size, drawn, count)
        model = save_random_model(args.model, top)
        for repeat in range(args.repeats):
            for command in args.commands:
                for size in sizes:
                    places = {
                        "out": top / f"out-{repeat}-{size}-{len(found)}",
                        "table": top / size / "images.csv",
                        "folder": top / size / "photos",
                        "model": model,
                        "name": args.model.partition("@")[0],
                    }
                    words = [word.format(**places) for word in COMMANDS[command]]
                    found[command, size].append(first_line(words, top / size / "images.txt"))
    return {
        "benchmark": "many_images",
        "model": args.model,
        "images": args.images,
        "few": args.few,
        "repeats": args.repeats,
        **{
            unit: {
                command: {
                    size: round(statistics.median(getattr(one, unit) for one in own), 1)
                    for size in ("many", "few")
                    if (own := found[command, size])
                }
                for command in args.commands
            }
            for unit in First._fields
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--model", default="vit_tiny_patch16_224@none")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the links are made (default: temporary)")
    print(json.dumps(measure(parser.parse_args())))
