"""Model what training, discovery and probing cost, from one core to thousands of GPUs.

    python benchmarks/scaling.py            # the tables of docs/scaling.md, of scaling.toml
    python benchmarks/scaling.py measure    # its constants of one core, as JSON
    python benchmarks/scaling.py check      # the model beside `gta discover` in 1, 2, 4 processes

ViTs with patches of 16 at 224 px. FLOPs are counted as two for a multiplication with its addition,
of matrix products alone; a backward pass costs two forward passes. On a CPU the stages of an image
share the cores and their times add up; with GPUs they overlap, and the slowest one is the rate.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

CONSTANTS = Path(__file__).with_suffix(".toml")
PATCHES, PIXELS = 196, 3 * 16 * 16
VISIBLE = 49  # a quarter: MAE masks 75 %
GTA = "import sys; from gtacli.cli import main; sys.exit(main(sys.argv[1:]))"


class Shape(NamedTuple):
    """A ViT's width, number of blocks, and parameters in millions."""

    width: int
    depth: int
    params: float


SHAPES = {
    "tiny": Shape(192, 12, 5.5),
    "small": Shape(384, 12, 22),
    "base": Shape(768, 12, 86),
    "large": Shape(1024, 24, 303),
}
DECODER = Shape(512, 8, 0)


def block_flops(width: int, tokens: int, queries: int | None = None) -> int:
    """Return the FLOPs of a block, of which only `queries` tokens may be wanted (default: all)."""
    queries = tokens if queries is None else queries
    projections = (6 * tokens + 18 * queries) * width**2  # queries, keys, values; the rest
    return projections + 4 * queries * tokens * width


def forward_flops(shape: Shape, patches: int = PATCHES) -> int:
    """Return the FLOPs of a forward pass on patches and the CLS token, without a classifier."""
    blocks = shape.depth * block_flops(shape.width, patches + 1)
    return 2 * patches * PIXELS * shape.width + blocks


def source_flops(shape: Shape) -> int:
    """Return the FLOPs of GTA's source, which stops after the last block's queries and keys."""
    last = [block_flops(shape.width, PATCHES + 1, queries) for queries in (None, 0)]
    return forward_flops(shape) - last[0] + last[1]


def mae_flops(shape: Shape) -> int:
    """Return the FLOPs of a masked autoencoder's forward pass; its last block reads as it needs."""
    width, tokens, masked = DECODER.width, PATCHES + 1, PATCHES - VISIBLE
    decoder = (DECODER.depth - 1) * block_flops(width, tokens) + block_flops(width, tokens, masked)
    joints = 2 * width * ((VISIBLE + 1) * shape.width + masked * PIXELS)
    return forward_flops(shape, VISIBLE) + decoder + joints


class Task(NamedTuple):
    """One image's work: FLOPs trained and only read, and what else is done and written."""

    trained: int
    read: int
    augmented: bool
    cut: bool
    written: int


def tasks(shape: Shape) -> dict[str, Task]:
    """Return the tasks of the model by their names."""
    forward = forward_flops(shape)
    return {
        "fine-tune, plain": Task(3 * forward, 0, True, False, 0),
        "fine-tune, GTA": Task(3 * forward, source_flops(shape), True, False, 0),
        "pre-train (MAE)": Task(3 * mae_flops(shape), 0, True, False, 0),
        "discover": Task(0, forward, False, True, PATCHES + 48),
        "probe features, embed": Task(0, forward, False, False, 4 * shape.width),
    }


def stages(task: Task, machine: dict[str, Any], c: dict[str, Any]) -> dict[str, float]:
    """Return the seconds that each stage of an image takes on a whole machine.

    Images are in tar files; the stage `files` is what single ones would take to open.
    """
    core, gpu = c["core"], c["gpu"]
    decode = core["decode_ms"] + core["augment_ms"] * task.augmented
    seconds = {
        "decoding": decode / 1000 / machine["cores"],
        "reading": c["image"]["jpeg_bytes"] / machine["bytes_per_second"],
        "writing": task.written / machine["bytes_per_second"],
        "files": 1 / machine["opens_per_second"] / c["storage"]["shard_images"],
    }
    if machine["gpus"]:
        speed = machine["gpus"] * gpu["tflops"] * 1e12 * gpu["utilization"]
        seconds["network"] = (task.trained + task.read) / speed
        seconds["cut"] = task.cut / gpu["cuts_per_second"] / machine["gpus"]
    else:
        work = task.trained / core["fp32_gflops"] + task.read / core["bf16_gflops"]
        seconds["network"] = work / 1e9 / machine["cores"]
        seconds["cut"] = task.cut * core["cut_ms"] / 1000 / machine["cores"]
    return seconds


def rate(task: Task, machine: dict[str, Any], c: dict[str, Any]) -> tuple[float, str]:
    """Return the images a second of a machine, and the stage that limits it."""
    seconds = stages(task, machine, c)
    slowest = max(seconds, key=lambda name: seconds[name])
    if machine["gpus"]:
        return 1 / seconds[slowest], slowest
    computing = sum(seconds[name] for name in ("decoding", "network", "cut"))
    return 1 / max(computing, seconds["reading"], seconds["files"]), slowest


def tables(c: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of the page in Markdown: FLOPs, bytes, rates, times."""
    yield table(
        ["GFLOPs an image", "forward", "plain step", "GTA's source", "MAE step", "weights, AdamW"],
        [
            [
                f"ViT-{name.capitalize()}/16",
                *(
                    digits(x / 1e9)
                    for x in (
                        forward_flops(s),
                        3 * forward_flops(s),
                        source_flops(s),
                        3 * mae_flops(s),
                    )
                ),
                size(12e6 * s.params),
            ]
            for name, s in SHAPES.items()
        ],
    )
    kinds = {
        "JPEG (assumed)": c["image"]["jpeg_bytes"],
        "decoded, 224 px, uint8": 224 * 224 * 3,
        "features, ViT-Small (fp32)": 4 * SHAPES["small"].width,
        "object map and its ledger entry": PATCHES + 48,
        "of that, the entry": 48,
    }
    yield table(
        ["", "one image", "ImageNet", "10^8", "10^10"],
        [
            [name, *(size(count * b) for count in (1, 1_281_167, 10**8, 10**10))]
            for name, b in kinds.items()
        ],
    )
    small = tasks(SHAPES["small"])
    yield table(
        ["ViT-Small/16, images a second", *small],
        [
            [
                m["words"],
                *(f"{digits(r)} ({why})" for r, why in (rate(t, m, c) for t in small.values())),
            ]
            for m in c["machines"].values()
        ],
    )
    yield table(
        ["time", "discover, 10^6", "10^8", "10^10", "300 epochs of ImageNet, MAE"],
        [
            [
                m["words"],
                *(
                    duration(count / rate(small[task], m, c)[0])
                    for task, count in (
                        ("discover", 1e6),
                        ("discover", 1e8),
                        ("discover", 1e10),
                        ("pre-train (MAE)", 300 * 1_281_167),
                    )
                ),
            ]
            for m in c["machines"].values()
        ],
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def digits(value: float) -> str:
    """Return a number with two significant digits, in thousands with separators."""
    return f"{float(f'{value:.2g}'):,.10g}"


def size(count: float) -> str:
    """Return a number of bytes in the largest unit of at least one."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{digits(count)} {unit}"
        count /= 1000
    return f"{digits(count)} PB"


def duration(seconds: float) -> str:
    """Return a time in the largest unit of at least one."""
    for unit, length in (("s", 60), ("min", 60), ("h", 24), ("days", 365)):
        if seconds < length:
            return f"{digits(seconds)} {unit}"
        seconds /= length
    return f"{digits(seconds)} years"


def measure(repeats: int) -> dict[str, Any]:
    """Return the constants of one core: CPU time of one thread, medians of interleaved repeats."""
    import numpy as np
    import torch
    from bench import cpu_model, draw_images
    from interleaved import time_interleaved
    from tokencut import synthetic

    from gtacli import load_model, normalized_cut
    from gtacli.data.augment.augmentation import Augmentation
    from gtacli.data.augment.transforms import EvalTransform, TrainTransform
    from gtacli.images.loading import load_for_training
    from gtacli.models.packed_linear import packed_copy
    from gtacli.runtime.devices import choose_compute

    torch.set_num_threads(1)
    model = load_model("vit_small_patch16_224@none")
    network = model.model.eval().requires_grad_(False)
    half = choose_compute("cpu", "auto").frozen
    packed, batch = packed_copy(network, half.dtype), torch.randn(4, 3, 224, 224)
    view, crop = EvalTransform(model.image_size), TrainTransform(model.image_size, (0.08, 1.0))
    augment, rng = Augmentation(crop, "none", 0.0, 0.0), np.random.default_rng(0)
    keys = synthetic(4, 14, 384)

    def frozen() -> None:
        with half.autocast():
            packed(batch)

    with tempfile.TemporaryDirectory() as folder:
        files = sorted(draw_images(Path(folder)).iterdir())[:4]

        larger = [load_for_training(file, crop.load_size) for file in files]
        variants = {
            "decode_ms": lambda: [view(load_for_training(file, view.load_size)) for file in files],
            "augment_ms": lambda: [augment(image, rng) for image in larger],
            "cut_ms": lambda: normalized_cut(keys, (14, 14), 0.2),
            "fp32_gflops": lambda: network(batch),
            "bf16_gflops": frozen,
        }
        with torch.no_grad():
            timings = time_interleaved(variants, repeats)
    each = {name: sorted(s)[len(s) // 2] / 4 for name, s in timings.cpu.items()}
    flops = forward_flops(SHAPES["small"])
    return {
        "cpu": cpu_model(),
        **{
            name: round(1000 * s if name.endswith("_ms") else flops / s / 1e9, 2)
            for name, s in each.items()
        },
    }


def check(images: int, c: dict[str, Any]) -> str:
    """Return a table of `gta discover` in 1, 2 and 4 processes beside the model's CPU time.

    Shards take blocks of a 32nd of so few images. With whole batches in each, nothing is filled up.
    """
    from bench import draw_images
    from maps import save_random_model
    from PIL import Image

    from gtacli.scenes.trials import draw_trial

    task = tasks(SHAPES["small"])["discover"]
    core = {**c["machines"]["core"], "bytes_per_second": 1e12}
    modelled = 1000 / rate(task, core, c)[0]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = folder / "few", folder / "many"
        few.mkdir(), many.mkdir()
        for k in range(images):
            Image.fromarray(draw_trial(k, 480)[0]).save(many / f"{k:05}.jpg", quality=90)
        draw_images(few)
        teacher = save_random_model("vit_small_patch16_224@none", folder)
        start, _ = run_shards(few, teacher, folder / "start", 1)
        start -= len(list(few.iterdir())) * modelled / 1000
        for processes in (1, 2, 4):
            cpu, wall = run_shards(many, teacher, folder / f"maps{processes}", processes)
            each = 1000 * (cpu - processes * start) / images
            rows.append(
                [
                    str(processes),
                    f"{each:.1f} ms",
                    f"{modelled:.1f} ms",
                    f"{each / modelled:.2f}",
                    f"{wall:.0f} s",
                ]
            )
    head = ["processes", "CPU time an image", "modelled", "ratio", "wall clock with the start"]
    return table(head, rows) + f"\n\n{images} images, {os.cpu_count()} cores"


def run_shards(images: Path, teacher: str, out: Path, processes: int) -> tuple[float, float]:
    """Run `gta discover` in processes of one thread; return seconds of the CPU and of the clock."""
    words = [
        sys.executable, "-c", GTA, "discover", "--data", str(images), "--teacher",
        teacher, "--layer", "-1", "--tau", "0.2", "--workers", "0",
        "--batch-size", "4", "-q",
        "-o", str(out),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    running = [
        subprocess.Popen(
            [*words, "--shard", f"{i}/{processes}"], env=env, stdout=subprocess.DEVNULL
        )
        for i in range(processes)
    ]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise SystemExit("gta discover failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("what", nargs="?", choices=["tables", "measure", "check"], default="tables")
    p.add_argument("--constants", type=Path, default=CONSTANTS)
    p.add_argument("--repeats", type=int, default=15)
    p.add_argument("--images", type=int, default=384, help="of `check`; 128 or a multiple")
    args = p.parse_args()
    constants = tomllib.loads(args.constants.read_text())
    if args.what == "measure":
        print(json.dumps(measure(args.repeats), indent=1))
    elif args.what == "check":
        print(check(args.images, constants))
    else:
        print(*tables(constants), sep="\n\n")


if __name__ == "__main__":
    main()
