"""Measure the map cache of `gta discover`, and check that killed runs do not damage it.

    python benchmarks/maps.py [--data SPEC --model SPEC --image-size 112 --layer -6 --kills 10]

Computes the maps once without interruption and once with kills (SIGKILL) at random moments and
restarts, and compares the files byte by byte. Also times a second run, which finds all maps cached,
and random look-ups. Without --data it draws images. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

IMAGENET = 1_281_167


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="dataset [default: 2,000 drawn images]")
    parser.add_argument("--model", default="vit_tiny_patch16_224@none")
    parser.add_argument("--image-size", default="112")
    parser.add_argument("--layer", default="-6")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = args.data or str(draw_images(folder / "images", 2000))
        words = [
            sys.executable, "-m", "gtacli", "discover", "--data", data, "-q", "--json",
            "--teacher", save_random_model(args.model, folder), "--image-size", args.image_size,
            "--layer", args.layer, "-o",
        ]  # fmt: skip
        once, killed = folder / "once", folder / "killed"
        first, seconds, memory = run_command([*words, str(once)])
        again, seconds_again, _ = run_command([*words, str(once)])
        kills = [run_and_kill(words, killed, seconds, args.kills) for _ in range(args.kills)]
        run_command([*words, str(killed)])
        print(
            json.dumps(
                {
                    "images": first["images"],
                    "seconds": seconds,
                    "images_per_second": first["images_per_second"],
                    "peak_memory_mb": memory,
                    "second_run": {"new": again["new"], "seconds": seconds_again},
                    "killed_after_s": kills,
                    "files": len(hash_files(once)),
                    "equal": hash_files(once) == hash_files(killed),
                    "bytes_a_map": first["bytes"] / first["new"],
                    "imagenet_mb": first["bytes"] / first["new"] * IMAGENET / 2**20,
                    **time_lookups(once, data),
                }
            )
        )


def draw_images(folder: Path, count: int) -> Path:
    """Write JPEG files of a disc on noise."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    for i in range(count):
        pixels = rng.integers(0, 120, (128, 128, 3), dtype=np.uint8)
        cy, cx, r = [*rng.integers(30, 98, 2).tolist(), int(rng.integers(12, 30))]
        pixels[(y - cy) ** 2 + (x - cx) ** 2 < r * r] += rng.integers(60, 130, 3, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:05}.jpg", quality=90)
    return folder


def save_random_model(spec: str, folder: Path) -> str:
    """Save a model with random weights, so that all runs use the same; return its spec."""
    if not spec.endswith("@none"):
        return spec
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    name = spec.removesuffix("@none")
    save_file(timm.create_model(name).state_dict(), folder / "model.safetensors")
    return f"{name}@{folder / 'model.safetensors'}"


def run_command(words: list[str]) -> tuple[dict[str, Any], float, float]:
    """Run a command; return its result, its seconds and its peak memory in MB."""
    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        *_, last = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return json.loads(last), time.perf_counter() - start, usage.ru_maxrss / 2**10


def run_and_kill(words: list[str], cache: Path, seconds: float, kills: int) -> float:
    """Kill a run at a random time after it has started; all kills take about one run's time."""
    process = subprocess.Popen([*words, str(cache)], stdout=subprocess.DEVNULL)
    wait = random.uniform(0, 2 * seconds / (kills + 1))
    while process.poll() is None and not list(cache.glob("journal-*")):
        time.sleep(0.01)
    time.sleep(wait)
    process.kill()
    process.wait()
    return wait


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file by its path."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def time_lookups(folder: Path, data: str) -> dict[str, float]:
    """Measure maps per second in random order, and images per second found by size and time."""
    from gtacli.data.inputs import list_sources
    from gtacli.discovery.maps import MapCache

    start = time.perf_counter()
    cache = MapCache(folder)
    opened = time.perf_counter()
    images = list_sources(data)
    listed = time.perf_counter()
    rows = cache.rows(images)
    found = time.perf_counter()
    order = random.choices(rows.tolist(), k=200_000)
    begin = time.perf_counter()
    for row in order:
        cache[row]
    return {
        "missing": int((rows < 0).sum()),
        "open_s": opened - start,
        "found_by_sighting_per_s": len(images) / (found - listed),
        "random_maps_per_s": len(order) / (time.perf_counter() - begin),
    }


if __name__ == "__main__":
    main()
