"""Run commands over very many images: the first result, memory, open files, speed; prints JSON.

    python benchmarks/load.py WORK [--images 100000] [--commands segment attention-map predict]

The images are hard links to eight pictures of 32 px, with the demo's model; `predict` needs a run
of the demo, WORK/run, which is trained if it is absent. A line per command: seconds from the end of
the imports to the first result, and memory (MB), open files and images per second in the first and
the last third of the images. Linux only (`/proc`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PICTURES = 8
CODE = (
    "import sys, time, torch, timm, kornia, scipy.sparse.linalg; from gtacli.cli import main; "
    "from gtacli.cli import segment, attention_map, predict; import gtacli.models.loading, "
    "gtacli.inference.segment.segmentation, gtacli.inference.attention_maps.make, "
    "gtacli.discovery.tokencut, gtacli.inference.predict; "
    "print('imported', time.time(), file=sys.stderr, flush=True); sys.exit(main(sys.argv[1:]))"
)
DONE = "import sys; from gtacli.cli import main; sys.exit(main(sys.argv[1:]))"


def make_images(folder: Path, count: int) -> None:
    """Create `count` images below a folder, 100 to a subfolder."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    pool = folder.with_name("pictures")
    pool.mkdir(parents=True, exist_ok=True)
    for k in range(PICTURES):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pool / f"{k}.png")
    for i in range(count):
        place = folder / f"{i // 1000:04}" / f"{i // 100:05}"
        if i % 100 == 0:
            place.mkdir(parents=True)
        os.link(pool / f"{i % PICTURES}.png", place / f"{i}.png")


def sample(pid: int) -> tuple[int, int]:
    """Return the memory in MB and the number of open files of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    memory = next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))
    return memory, len(os.listdir(f"/proc/{pid}/fd"))


def watch(words: Sequence[str], count: int, env: dict[str, str], errors: Path) -> dict[str, Any]:
    """Run a command to its end and return what was measured."""
    samples: list[tuple[float, int, int, int]] = []  # time, images done, memory, open files
    with (
        errors.open("w") as err,
        subprocess.Popen(
            [sys.executable, "-c", CODE, *words], env=env, stdout=subprocess.PIPE, stderr=err
        ) as process,
    ):
        assert process.stdout is not None
        for done, _ in enumerate(process.stdout):
            if done % max(1, count // 60) == 0:
                samples.append((time.time(), done, *sample(process.pid)))
    log = errors.read_text().splitlines()
    imported = next(float(line.split()[1]) for line in log if line.startswith("imported"))
    third = len(samples) // 3
    return {
        "command": words[0],
        "images": count,
        "status": process.returncode,
        "first_result_seconds": round(samples[0][0] - imported, 2),
        "first_third": describe(samples[1 : third + 1]),
        "last_third": describe(samples[-third - 1 :]),
        "log_lines": len(log) - 1,
    }


def describe(samples: Sequence[tuple[float, int, int, int]]) -> dict[str, float]:
    """Return the peak memory, open files and the speed over some samples."""
    (start, first, *_), (end, last, *_) = samples[0], samples[-1]
    return {
        "memory_mb": max(row[2] for row in samples),
        "open_files": max(row[3] for row in samples),
        "images_per_second": round((last - first) / max(end - start, 1e-9), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    commands = ["segment", "attention-map", "predict"]
    parser.add_argument("--commands", nargs="+", choices=commands, default=commands)
    args = parser.parse_args()
    work = args.work.resolve()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder, run = work / f"images-{args.images}", work / "run"
    if not folder.is_dir():
        make_images(folder, args.images)
    if "predict" in args.commands and not run.is_dir():
        train = ["finetune", "--epochs", "1", "--shots", "2", "--out", str(run), "-q", "--json"]
        subprocess.run([sys.executable, "-c", DONE, *train], check=True, env=env, stdout=2)
    for command in args.commands:
        words = [command, str(folder), "--json", "--model"]
        words += [str(run)] if command == "predict" else ["demo", "-o", str(work / "out")]
        if command == "segment":
            words += ["--layer", "-2", "--tau", "0.3"]
        shutil.rmtree(work / "out", ignore_errors=True)
        print(json.dumps(watch(words, args.images, env, work / "errors")), flush=True)
    shutil.rmtree(work / "out", ignore_errors=True)


if __name__ == "__main__":
    main()
