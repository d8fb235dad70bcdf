"""Run commands over very many images: the first result, memory, open files, speed; prints JSON.

    python benchmarks/load.py WORK [--images 100000] [--commands segment attention-map ...]

The images are different pictures of 32 px, cut at random from drawings of the demo, with the demo's
model; `predict` needs a run of the demo, WORK/run, which is trained if it is absent. A line per
command: seconds from the start of the process, and from the end of its imports, to the first result
(`discover`: the first batch in its journal), and memory (MB), open files and images per second, of
the clock and of the CPU, in the first and the last tenth of the images. `list` is `predict` with
the paths on stdin, ended after its first result; `unreadable` is `predict` on files that are no
images, of which the lines of log are counted. Linux only (`/proc`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CODE = (
    "import sys, time, torch, timm, kornia, scipy.sparse.linalg; from gtacli.cli import main; "
    "from gtacli.cli import segment, attention_map, predict, discover; "
    "import gtacli.models.loading, gtacli.discovery.maps.writer, "
    "gtacli.inference.segment.segmentation, gtacli.inference.attention_maps.make, "
    "gtacli.discovery.tokencut, gtacli.inference.predict, gtacli.inference.discover; "
    "print('imported', time.time(), file=sys.stderr, flush=True); sys.exit(main(sys.argv[1:]))"
)
DONE = "import sys; from gtacli.cli import main; sys.exit(main(sys.argv[1:]))"
SECONDS = 0.25
"""Time between two samples."""
Sample = tuple[float, int, int, int, float]  # time, images done, memory, files, CPU seconds


def make_images(folder: Path, count: int) -> None:
    """Create `count` different images below a folder, 100 to a subfolder."""
    import numpy as np
    from PIL import Image

    from gtacli.data.spec import load_dataset

    rng = np.random.default_rng(0)
    drawings = []
    for _, record in load_dataset("demo").records():
        with Image.open(Path(str(record.path))) as image:
            drawings.append(image.convert("RGB").resize((96, 96)))
    for i in range(count):
        place = folder / f"{i // 1000:04}" / f"{i // 100:05}"
        if i % 100 == 0:
            place.mkdir(parents=True)
        x, y = rng.integers(0, 64, 2)
        picture = drawings[i % len(drawings)].crop((x, y, x + 32, y + 32))
        picture.putpixel((0, 0), (i & 255, i >> 8 & 255, i >> 16))
        picture.save(place / f"{i}.png", compress_level=1)


def make_unreadable(folder: Path, count: int) -> None:
    """Create `count` links to a file that is no image."""
    folder.mkdir()
    for i in range(count):
        if i % 30000:  # as many links as any file system allows
            os.link(folder / f"{i - i % 30000}.png", folder / f"{i}.png")
        else:
            (folder / f"{i}.png").write_bytes(b"no image")


def sample(pid: int) -> tuple[int, int, float]:
    """Return the memory in MB, the number of open files and the CPU seconds of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    memory = next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    seconds = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return memory, len(os.listdir(f"/proc/{pid}/fd")), seconds


def bytes_below(folder: Path) -> int:
    """Return the size of the maps and journals of `gta discover`."""
    return sum(f.stat().st_size for f in [*folder.glob("maps/*"), *folder.glob("journal-*")])


def watch(
    words: Sequence[str],
    count: int,
    env: dict[str, str],
    errors: Path,
    done: Callable[[], int] | None = None,
    paths: Path | None = None,
) -> dict[str, Any]:
    """Run a command to its end and return what was measured.

    Args:
        done: returns how far it is, in a unit of its own; default: the lines that it has printed.
        paths: its stdin; then it is ended after the first result.
    """
    samples: list[Sample] = []
    started, lines, first = time.time(), 0, 0.0
    with (
        errors.open("w") as err,
        (paths or Path(os.devnull)).open("rb") as given,
        subprocess.Popen(
            [sys.executable, "-c", CODE, *words],
            env=env,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=err,
        ) as process,
    ):
        ended = threading.Event()

        def read() -> None:
            nonlocal lines, first
            assert process.stdout is not None
            for _ in process.stdout:
                first = first or time.time()
                lines += 1
                if paths is not None:
                    process.terminate()
                    break
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        while not ended.wait(SECONDS):
            try:
                samples.append((time.time(), done() if done else lines, *sample(process.pid)))
            except (OSError, StopIteration):  # it has ended, or a draft was renamed meanwhile
                continue
        reader.join()
    if done is not None:
        first = next(time for time, at, *_ in samples if at)
    log = errors.read_text().splitlines()
    imported = next(float(line.split()[1]) for line in log if line.startswith("imported"))
    result = {
        "command": words[0],
        "images": count,
        "status": process.returncode,
        "first_result_seconds": round(first - started, 2),
        "of_these_imports": round(imported - started, 2),
        "log_lines": len(log) - 1,
    }
    if paths is None:
        most = max(at for _, at, *_ in samples)
        busy = [row for row in samples if row[1]]
        result["first_tenth"] = describe([row for row in busy if row[1] <= most / 10], count / most)
        result["last_tenth"] = describe(
            [row for row in busy if 0.9 * most <= row[1] < most], count / most
        )
    return result


def describe(samples: Sequence[Sample], scale: float) -> dict[str, float]:
    """Return the peak memory, open files and the speed over some samples."""
    if len(samples) < 2:
        return {}
    (start, first, *_, begun), (end, last, *_, used) = samples[0], samples[-1]
    return {
        "memory_mb": max(row[2] for row in samples),
        "open_files": max(row[3] for row in samples),
        "images_per_second": round(scale * (last - first) / max(end - start, 1e-9), 1),
        "images_per_cpu_second": round(scale * (last - first) / max(used - begun, 1e-9), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    commands = ["list", "unreadable", "segment", "attention-map", "discover", "predict"]
    parser.add_argument("--commands", nargs="+", choices=commands, default=commands)
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder, bad, run = work / f"images-{args.images}", work / f"bad-{args.images}", work / "run"
    if not folder.is_dir():
        make_images(folder, args.images)
        with (work / "paths").open("w") as file:
            file.writelines(f"{path}\n" for path in sorted(folder.rglob("*.png")))
    if "unreadable" in args.commands and not bad.is_dir():
        make_unreadable(bad, args.images)
    if not run.is_dir():
        train = ["finetune", "--epochs", "1", "--shots", "2", "--out", str(run), "-q", "--json"]
        subprocess.run([sys.executable, "-c", DONE, *train], check=True, env=env, stdout=2)
    out = work / "out"
    for command in args.commands:
        verb = "predict" if command in ("list", "unreadable") else command
        given = {"list": "-", "unreadable": str(bad)}.get(command, str(folder))
        words = [verb, given, "--json"]
        if verb == "predict":
            words += ["--model", str(run)]
        elif verb == "discover":
            words += ["--teacher", "demo", "-o", str(out)]
        else:
            words += ["--model", "demo", "-o", str(out)]
        if verb in ("segment", "discover"):
            words += ["--layer", "-2", "--tau", "0.3"]
        shutil.rmtree(out, ignore_errors=True)
        measured = watch(
            words,
            args.images,
            env,
            work / "errors",
            (lambda: bytes_below(out)) if verb == "discover" else None,
            work / "paths" if command == "list" else None,
        )
        print(json.dumps({"what": command, **measured}), flush=True)
        (work / "errors").rename(work / f"errors-{command}")
    shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
