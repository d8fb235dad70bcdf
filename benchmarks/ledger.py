"""Measure a worker of `gta discover` in a cache of up to 10^9 maps; prints JSON.

    python benchmarks/ledger.py WORK [--maps 4e6 1e9]

The cache is made up: indexes of random digests, of sizes as they grow by themselves, for files of
4,096 maps that exist and have their sizes, but occupy no disk (an index takes 24 bytes a map: 24 GB
for 10^9). The newest 255 files, which have no index, are real ones.

`open`: a process opens the cache to write to it, as each worker does: seconds, its memory before
and after, and microseconds to look up an image without a map and one with a map (medians of single
lookups), and the disk's bytes read for them. `merge`: the seconds and the memory of merging two of
the larger indexes. Linux only (`/proc`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gtacli.discovery.maps.files import maps_type, save
from gtacli.discovery.maps.index import INDEX, MANY_FILES, maps_kind
from gtacli.discovery.maps.manifest import MANIFEST, MapManifest
from gtacli.discovery.maps.sorted_file import COVERED, Rows, row_type, write_sorted
from gtacli.runtime.npy import size_of_rows

GRID, A_FILE, PIECE = (14, 14), 4096, 1 << 20
KIND = maps_kind(GRID)
WORKER = """
import json, os, sys, time
from pathlib import Path
from statistics import median
import numpy as np
from gtacli.discovery.maps import index
from gtacli.discovery.maps.digests import stack
from gtacli.discovery.maps.manifest import read_manifest
from gtacli.discovery.maps.writer import MapWriter

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) // 1024

def read_bytes():
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])

def microseconds(keys):
    times = []
    for key in keys:
        start = time.perf_counter()
        writer.has(key)
        times.append(time.perf_counter() - start)
    return round(1e6 * median(times), 1)

folder = Path(sys.argv[1])
before = memory("VmRSS")
start, used = time.perf_counter(), time.process_time()
writer = MapWriter(folder, read_manifest(folder), 4096, (3, 1000))
seconds, cpu = time.perf_counter() - start, time.process_time() - used
rng = np.random.default_rng(0)
absent = [bytes(one) for one in rng.integers(0, 256, (2000, 16), dtype=np.uint8)]
group = writer.cache._maps._groups[0].index
present = [bytes(memoryview(row["key"].copy()).cast("B"))
           for place in rng.integers(0, len(group._fences), 500)
           for row in group._blocks(place, place + 1)[:1]]
disk = read_bytes()
result = {"maps": len(writer.cache), "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2),
          "indexes": len(writer.cache._maps._groups),
          "memory_before_mb": before, "absent_us": microseconds(absent),
          "present_us": microseconds(present)}
assert all(map(writer.has, present)) and not any(map(writer.has, absent))
result |= {"disk_kb_a_lookup": round((read_bytes() - disk) / 1024 / 2500, 1),
           "memory_mb": memory("VmRSS"), "peak_mb": memory("VmHWM")}
writer.close(done=True)
print(json.dumps(result))
"""
MERGE = """
import json, sys, time
from pathlib import Path
from gtacli.discovery.maps import index
from gtacli.discovery.maps.index import _Merger, maps_kind, open_indexes

folder = Path(sys.argv[1])
kind = maps_kind((14, 14))
opened = open_indexes(folder, kind)[0][-2:]
merger = _Merger(kind, {path.stem for path in (folder / "maps").iterdir()})
for one in opened:
    merger.add_index(one)
start, used = time.perf_counter(), time.process_time()
path = merger.write(folder / "merged", folder / "draft")
lines = Path("/proc/self/status").read_text().splitlines()
peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
print(json.dumps({"rows": merger.count, "seconds": round(time.perf_counter() - start, 2),
                  "cpu_seconds": round(time.process_time() - used, 2),
                  "mb": path.stat().st_size >> 20, "peak_mb": peak}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--maps", type=float, nargs="+", default=[4e6])
    parser.add_argument("--keep", action="store_true", help="keep the made-up caches")
    args = parser.parse_args()
    for count in map(int, args.maps):
        folder = args.work / f"cache-{count}"
        if not folder.is_dir():
            make_cache(folder, count)
        print(json.dumps({"what": "open", **run(WORKER, folder)}), flush=True)
        if len(list((folder / INDEX / KIND.name).iterdir())) > 1:
            print(json.dumps({"what": "merge", **run(MERGE, folder)}), flush=True)
        if not args.keep:
            shutil.rmtree(folder)


def run(code: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def make_cache(folder: Path, count: int) -> None:
    """Make up a cache of so many maps, with indexes of sizes that are powers of two."""
    start = time.perf_counter()
    (folder / KIND.name).mkdir(parents=True)
    manifest = MapManifest(
        model="made up", fingerprint="0", backend="tokencut", backend_version=1, options={},
        image_size=(224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3,
        precision="fp32", grid=GRID,
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.text)
    rng = np.random.default_rng(count)
    rounds, newest = divmod(max(1, count // A_FILE), MANY_FILES)
    for bit in reversed(range(rounds.bit_length())):
        if rounds >> bit & 1:
            add_index(folder, MANY_FILES << bit, rng)
    for _ in range(newest):
        rows = np.zeros(A_FILE, maps_type(GRID))
        rows["digest"] = rng.integers(0, 256, rows["digest"].shape)
        save(folder / KIND.name, rows, folder / "draft")
    print(f"{folder}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def add_index(folder: Path, files: int, rng: np.random.Generator) -> None:
    """Make up files of maps without content, and their index."""
    covered = np.zeros(files, COVERED)
    covered["name"], covered["rows"] = rng.integers(0, 256, covered["name"].shape), A_FILE
    size = size_of_rows(KIND.rows, A_FILE)
    for name in covered["name"]:
        path = folder / KIND.name / f"{bytes(name).hex()}.npy"
        path.touch()
        os.truncate(path, size)
    rows = files * A_FILE
    write_sorted(
        folder / INDEX / KIND.name, covered, KIND.value, rows, pieces(rows, rng), folder / "draft"
    )


def pieces(count: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Yield random rows in order."""
    parts = max(1, count // PIECE)
    for part in range(parts):
        size = count * (part + 1) // parts - count * part // parts
        low, high = part * 2**64 // parts, (part + 1) * 2**64 // parts
        rows = np.zeros(size, row_type(KIND.value))
        rows["key"][:, 0] = np.sort(rng.integers(low, high, size, np.uint64))
        rows["key"][:, 1] = rng.integers(0, 2**64, size, np.uint64)
        rows["value"] = rng.integers(0, count, size, np.uint64)
        yield rows


if __name__ == "__main__":
    main()
