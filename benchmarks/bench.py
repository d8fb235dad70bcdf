"""Run the benchmarks, gather the ratios that matter, and compare them with an earlier run's.

    python benchmarks/bench.py [--quick] [--only PATTERN] [--out FILE] [--compare OLD.json]

Each benchmark is a process on `--threads` threads. `--rounds` runs all of them so many times, one
round after another; a value is the median of its rounds, its interval reaches over theirs, so that
what depends on the load of the machine is seen to. Prints a Markdown table; FILE also names the
machine, the versions and the commit.

`--compare` prints what differs from OLD by more than `--floor` and beyond both intervals, and ends
with status 1 if something got worse. Values are compared where the arguments are the same.

What needs a path is left out without it: `--repos DIR` (a checkout `mae` of facebookresearch/mae).
Photographs are drawn unless `--images DIR` is given. Agreement (`layouts.py`, ...) and limits
(`load.py`, `maps.py`, `faults`) are no ratios of speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from interleaved import cpu_seconds

HERE = Path(__file__).parent
DRAWN = 32  # images


class Value(NamedTuple):
    """One number of a benchmark's JSON: its path, its meaning, and its good direction."""

    path: str
    words: str
    better: Literal["lower", "higher"] = "lower"
    quick: bool = True


class Benchmark(NamedTuple):
    """One script with its arguments; without quick ones it is left out of a quick run."""

    script: str
    full: str
    quick: str | None
    values: tuple[Value, ...]


BENCHMARKS = (
    Benchmark(
        "startup",
        "--runs 31",
        "--runs 15",
        (Value("ratio", "`gta --help` / importing typer and rich"),),
    ),
    Benchmark(
        "first_result",
        "--repeats 7",
        None,
        tuple(
            Value(f"ratio.{command}", f"`{command}` of one photograph / importing torch and timm")
            for command in ("predict", "attention-map", "segment", "embed")
        ),
    ),
    Benchmark(
        "plugins",
        "--runs 21",
        "--runs 7",
        (Value("list_ratio", "`gta plugins list` with 20 plug-ins / without"),),
    ),
    Benchmark(
        "finetune_step",
        "--repeats 15",
        "--repeats 9 --batch-size 4 --no-memory --variants gta kept half",
        (
            Value("ratio.gta", "step with GTA / plain step of timm's model"),
            Value("ratio.fp32", "the same with the source in fp32", quick=False),
            Value("ratio.kept", "the same with cached source views"),
            Value("ratio.half", "the same in bf16 / plain step in fp32"),
            Value("ratio.naive", "the naive way, all N x N logits / plain step", quick=False),
            Value("memory_ratio.gta", "peak memory with GTA / plain", quick=False),
        ),
    ),
    Benchmark(
        "lora",
        "--repeats 15",
        None,
        (
            Value("ratio.lora", "step of adapters (`--train lora`) / of the whole network"),
            Value("ratio.lora+gta", "the same with GTA / of the whole network without it"),
        ),
    ),
    Benchmark(
        "precision",
        "--images {images}",
        "--images {images} --model vit_tiny_patch16_224@none --count 8",
        (
            Value("attention_maps", "attention maps in bf16, times as fast as fp32", "higher"),
            Value("objects", "objects in bf16, times as fast as fp32", "higher"),
            Value("features", "features in bf16, times as fast as fp32", "higher"),
        ),
    ),
    Benchmark(
        "map_kinds",
        "--repeats 15",
        "--repeats 7 --batch-size 4 --kinds cls,rollout,attnlrp",
        (
            Value("of_forward.cls", "maps `cls`, of the bare forward pass's speed", "higher"),
            Value("of_forward.rollout", "maps `rollout`, of the forward pass's speed", "higher"),
            Value(
                "of_forward_backward.attnlrp",
                "maps `attnlrp`, of the speed of forward and backward pass",
                "higher",
            ),
        ),
    ),
    Benchmark(
        "attention_export",
        "--images {images}",
        "--images {images} --count 16 --naive 0",
        (
            Value("overlay_of_bare", "overlays from file to file, of the bare speed", "higher"),
            Value("raw_of_bare", "raw maps from file to file, of the bare speed", "higher"),
        ),
    ),
    Benchmark(
        "tokencut",
        "--sizes 14 --repeats 15",
        "--sizes 14 --repeats 9",
        (Value("times_faster.batch", "normalized cut of 196 patches, times scipy's", "higher"),),
    ),
    Benchmark(
        "tokencut",
        "--sizes 30",
        None,
        (Value("times_faster.batch", "normalized cut of 900 patches, times scipy's", "higher"),),
    ),
    Benchmark(
        "backends",
        "--model vit_tiny_patch16_224@none",
        "--model vit_tiny_patch16_224@none --image-size 224 --images 4",
        (
            Value("tokencut_over.found", "back-end `found`, times TokenCut's speed", "higher"),
            Value("tokencut_over.lost", "back-end `lost`, times TokenCut's speed", "higher"),
        ),
    ),
    Benchmark(
        "augment",
        "--repeats 15",
        "--repeats 9 --batch-size 16",
        (
            Value("times_torchvision.image", "training views, times torchvision's", "higher"),
            Value("times_torchvision.worker", "a worker's half of them, times all of it", "higher"),
        ),
    ),
    Benchmark(
        "probe",
        "--what knn --repeats 7 --without sklearn",
        "--what knn --repeats 9 --without sklearn,product --keys 10000 --queries 2000",
        (Value("knn.ours_by.bare", "k-NN with votes / product and topk alone"),),
    ),
    Benchmark(
        "probe",
        "--what sweep --without cls,deep",
        None,
        (Value("sweep.race_by.full", "linear heads with a race / all to the end"),),
    ),
    Benchmark(
        "export",
        "--model vit_tiny_patch16_224@none --cold 0",
        None,
        (Value("batch 8.cpu_time_of_pytorch.onnxruntime", "ONNX of 8 images / PyTorch"),),
    ),
    Benchmark(
        "report",
        "--runs 4 --images 50",
        None,
        (Value("times_forward", "a report of 4 runs, 50 images / its forward passes"),),
    ),
    Benchmark(
        "annotations",
        "--images 1000 --formats coco",
        None,
        (Value("results.0.peak_mb", "memory of COCO annotations of 1,000 images, MB"),),
    ),
    Benchmark(
        "pretrain_step",
        "--repos {repos}",
        "--repos {repos} --model base --batch-size 2 --repeats 5",
        (
            Value("ratio.mae", "pre-training step / that of the published MAE"),
            Value("ratio.guided", "the same guided by cached maps / published MAE"),
        ),
    ),
)


def main(words: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    p.add_argument("--quick", action="store_true", help="small sizes, minutes on two cores")
    p.add_argument("--only", default="", metavar="PATTERN", help="scripts that match it")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--threads", type=int, default=1, help="of each benchmark")
    p.add_argument("--images", type=Path, help="a folder of photographs [default: drawn ones]")
    p.add_argument("--repos", type=Path, help="a folder with checkouts of official code")
    p.add_argument("--out", type=Path, default=Path("build/bench.json"))
    p.add_argument("--results", type=Path, help="results of an earlier run, instead of a new one")
    p.add_argument("--compare", type=Path, metavar="OLD.json")
    p.add_argument("--floor", type=float, default=0.05, help="differences that count as noise")
    args = p.parse_args(words)
    old = json.loads(args.compare.read_text()) if args.compare else None
    failed: list[str] = []
    if args.results:
        record = json.loads(args.results.read_text())
    else:
        record = {**describe(args.threads), "quick": args.quick}
        record["values"] = combine(run_all(args, failed))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(markdown(record))
    worse = False
    if old is not None:
        lines, worse = compare(old, record, args.floor)
        print("", *lines, sep="\n")
    return 1 if worse or failed else 0


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside the options, and the description in its own lines."""


def describe(threads: int | None) -> dict[str, Any]:
    """Return the machine, the versions and the commit; no threads: torch chooses."""
    import torch

    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "timm")},
        "gta": version("gtacli"),
        "commit": commit or None,
    }


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def run_all(args: argparse.Namespace, failed: list[str]) -> Iterator[dict[str, Any]]:
    """Run the chosen benchmarks and yield their values; add the names of those that fail."""
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(args.rounds):
            for one in BENCHMARKS:
                arguments = one.quick if args.quick else one.full
                if arguments is None or not re.search(args.only, one.script):
                    continue
                if "{repos}" in arguments and not args.repos:
                    say(f"{one.script}: left out, it needs --repos")
                    continue
                images = args.images or draw_images(Path(scratch))
                names = {"images": args.images or "DRAWN", "repos": args.repos}
                start, cpu = time.perf_counter(), cpu_seconds()
                try:
                    line = run(one.script, arguments, args.threads, {**names, "images": images})
                    yield from gather(one, arguments.format(**names), line, args.quick)
                except (RuntimeError, LookupError) as error:
                    failed.append(one.script)
                    say(f"{one.script} failed: {error}")
                took, cpu = time.perf_counter() - start, cpu_seconds() - cpu
                say(f"{turn + 1}: {one.script} {arguments}: {took:.0f} s ({cpu:.0f} s of CPU time)")


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def draw_images(folder: Path) -> Path:
    """Draw photographs, unless the folder has them already."""
    from PIL import Image

    from gtacli.scenes.trials import draw_trial

    for k in range(DRAWN):
        if not (file := folder / f"{k:03}.jpg").exists():
            Image.fromarray(draw_trial(k, 480)[0]).save(file, quality=90)
    return folder


def run(script: str, arguments: str, threads: int, names: dict[str, Any]) -> dict[str, Any]:
    """Return the last line of JSON that a benchmark prints; raise RuntimeError if it fails."""
    words = [word.format(**names) for word in shlex.split(arguments)]
    done = subprocess.run(
        [sys.executable, str(HERE / f"{script}.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def gather(
    one: Benchmark, arguments: str, line: dict[str, Any], quick: bool
) -> Iterator[dict[str, Any]]:
    """Yield the values of a benchmark's JSON; raise LookupError where one is missing."""
    for value in one.values:
        if quick and not value.quick:
            continue
        found: Any = line
        for key in value.path.split("."):
            try:
                found = found[int(key) if isinstance(found, list) else key]
            except (KeyError, IndexError):
                raise LookupError(f"no value at {value.path}") from None
        if not isinstance(found, dict):
            found = dict.fromkeys(("median", "low", "high"), found)
        yield {
            "benchmark": one.script,
            "arguments": arguments,
            **value._asdict(),
            **found,
        }


def combine(values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one value of its rounds: the median of their medians, over all their intervals."""
    rounds: dict[object, list[dict[str, Any]]] = {}
    for value in values:
        rounds.setdefault(key(value), []).append(value)
    return [
        {
            **same[0],
            "median": statistics.median(v["median"] for v in same),
            "low": min(v["low"] for v in same),
            "high": max(v["high"] for v in same),
            "rounds": len(same),
        }
        for same in rounds.values()
    ]


def key(value: dict[str, Any]) -> tuple[str, str, str]:
    """Return what two values that can be compared have in common."""
    return value["benchmark"], value["arguments"], value["path"]


def markdown(record: dict[str, Any]) -> str:
    """Return the values as a Markdown table, with the machine and the versions above it."""
    rows = [
        f"| {v['words']} | {number(v['median'])} | {number(v['low'])} to {number(v['high'])} |"
        for v in record["values"]
    ]
    head = ["| | median | interval |", "|---|---|---|"]
    return "\n".join([f"{machine(record)}:", "", *head, *rows])


def machine(record: dict[str, Any]) -> str:
    """Return the machine and the versions in words."""
    words = [record["gpu"], record["cpu"], f"{record['cores']} cores", f"load {record['load']}"]
    if record["threads"]:
        words.append(f"{record['threads']} thread(s) a benchmark")
    versions = [f"gta {record['gta']} ({record['commit']})"]
    versions += [f"{name} {record[name]}" for name in ("python", "torch", "timm")]
    return f"{', '.join(filter(None, words))}; {', '.join(versions)}"


def number(value: float) -> str:
    """Return three significant digits, and whole numbers above a hundred."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def compare(old: dict[str, Any], new: dict[str, Any], floor: float) -> tuple[list[str], bool]:
    """Return lines on what moved beyond noise, and whether anything got worse."""
    before = {key(value): value for value in old["values"]}
    lines = [
        f"{name} differs: {old[name]} before, {new[name]} now"
        for name in ("cpu", "cores", "threads", "gpu", "python", "torch", "timm")
        if old[name] != new[name]
    ]
    found, worse = 0, False
    for value in new["values"]:
        last = before.get(key(value))
        if last is None:
            continue
        found += 1
        if moved(last, value, floor):
            bad = (value["median"] > last["median"]) == (value["better"] == "lower")
            worse = worse or bad
            lines.append(
                f"{'worse' if bad else 'better'}: {value['words']} ({value['benchmark']}): "
                f"{number(last['median'])} before, {number(value['median'])} now"
            )
    compared = f"{found} values compared"
    missing = len(before) + len(new["values"]) - 2 * found
    return [*lines, compared + (f", {missing} in one run alone" if missing else "")], worse


def moved(old: dict[str, Any], new: dict[str, Any], floor: float) -> bool:
    """Return whether two values differ by more than the floor and their intervals do not meet."""
    smaller, larger = sorted((old, new), key=lambda value: value["median"])
    apart = larger["low"] > smaller["high"]
    return bool(apart and larger["median"] > smaller["median"] * (1 + floor))


if __name__ == "__main__":
    sys.exit(main())
