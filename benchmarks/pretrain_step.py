"""A pre-training step against the published MAE's, side by side.

    python benchmarks/pretrain_step.py --repos DIR --model base --batch-size 16

official  facebookresearch/mae's model (a checkout `mae` in DIR) and its optimiser
mae       ours: the same network, masks, loss and gradients (`pretrain_parity.py`)
guided    the same with maps from a cache: cropped with their images, weights, no teacher
teacher   the same with maps found anew in each view by --guide of --teacher
crossmae  ours with CrossMAE's decoder, a quarter of the patches predicted

All at 224 pixels in patches of 16, decoder 512 x 8, random images. With --compile every variant is
compiled. Prints one JSON line: medians of interleaved repeats, ratios to official of the same run
(on the CPU of its own time too, which others on the machine disturb less), and peak memory (of a
fresh process a variant on the CPU, of the allocator on a GPU).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pretrain_parity import HEADS, official, ours
from torch import Tensor

from gtacli.data.augment.map_crops import crop_maps
from gtacli.data.loader import Batch
from gtacli.models.loading import load_model
from gtacli.models.patches import mask_order, take
from gtacli.pretraining.guidance import guided_weights, normalize_maps
from gtacli.pretraining.map_source import OnlineMaps
from gtacli.runtime.devices import choose_compute

VARIANTS = ("official", "mae", "guided", "teacher", "crossmae")


def make_step(variant: str, args: argparse.Namespace) -> Callable[[], None]:
    """A function that takes one whole optimiser step."""
    compute = choose_compute(args.device, args.precision)
    device, b = compute.device, args.batch_size
    torch.manual_seed(0)
    made: Any
    if variant == "official":
        made = official(args.repos, args.model, "mae")
    else:
        made = ours(args.model, "crossmae" if variant == "crossmae" else "mae")
    made = made.to(device).train()
    decay = [p for p in made.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in made.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.5e-4, betas=(0.9, 0.95))
    images = torch.randn(b, 3, 224, 224, device=device)
    maps = torch.randint(0, 256, (b, 28, 28), dtype=torch.uint8, device=device)
    shown = torch.tensor([[0.1, 0.2, 0.8, 0.7, 1.0]], device=device).expand(b, 5)
    model = torch.compile(made, dynamic=False) if args.compile else made
    guide = None
    if variant == "teacher":
        options = {"layer": -1, "tau": 0.2} if args.guide == "tokencut" else {}
        guide = OnlineMaps(load_model(args.teacher), args.guide, options, compute)
    pixels = torch.randint(0, 256, (b, 3, 224, 224), dtype=torch.uint8)
    batch = Batch(pixels, torch.zeros(b).long(), torch.arange(b), shown.cpu())

    def loss() -> Tensor:
        if variant == "official":
            return model(images)[0]
        order = mask_order(torch.rand(b, 196, device=device))
        errors = model(images, order).errors
        if variant not in ("guided", "teacher"):
            return errors.mean()
        found, where = (maps, shown) if guide is None else guide.maps(batch)
        views = normalize_maps(crop_maps(found, where, (14, 14)).flatten(1))
        masked = take(views, order[:, -errors.shape[1] :])
        return (guided_weights(masked, 0.7) * errors).mean()

    def step() -> None:
        with compute.autocast():
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peak_memory(variant: str, args: argparse.Namespace) -> float:
    """MB at the highest over three steps."""
    compute = choose_compute(args.device, args.precision)
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
        step = make_step(variant, args)
        step()  # compiling takes memory too
        compute.reset_peak_memory()
        for _ in range(3):
            step()
        return compute.peak_memory_mb()
    child = [sys.executable, __file__, *sys.argv[1:], "--peak-of", variant]
    return float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)


def paired(times: dict[str, list[float]]) -> dict[str, float]:
    """Median ratios to official. A round's steps ran next to each other: this is steadier on a busy
    machine than the ratio of the medians."""
    rounds = {v: zip(times[v], times["official"], strict=True) for v in VARIANTS[1:]}
    return {v: round(statistics.median(a / b for a, b in pairs), 3) for v, pairs in rounds.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--repos", type=Path, required=True)
    p.add_argument("--model", default="base", choices=HEADS)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", default="auto")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--teacher", default="vit_tiny_patch16_224@none", help="a model spec")
    p.add_argument("--guide", default="tokencut")
    p.add_argument("--repeats", type=int, default=15)
    p.add_argument("--peak-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = p.parse_args()
    warnings.filterwarnings("ignore")  # of the published code: old names of torch and timm
    compute = choose_compute(args.device, args.precision)
    if args.peak_of:
        step = make_step(args.peak_of, args)
        for _ in range(3):
            step()
        print(compute.peak_memory_mb())
        return
    steps = {v: make_step(v, args) for v in VARIANTS}
    times: dict[str, list[float]] = {v: [] for v in VARIANTS}
    own: dict[str, list[float]] = {v: [] for v in VARIANTS}
    for repeat in range(args.repeats + 2):
        turn = repeat % len(VARIANTS)
        # The order turns, so that no variant always follows the same one.
        for v in VARIANTS[turn:] + VARIANTS[:turn]:
            compute.synchronize()
            start, cpu = time.perf_counter(), time.process_time()
            steps[v]()
            compute.synchronize()
            if repeat >= 2:
                times[v].append(time.perf_counter() - start)
                own[v].append(time.process_time() - cpu)
    medians = {v: statistics.median(t) for v, t in times.items()}
    steps.clear()
    memory = {v: peak_memory(v, args) for v in VARIANTS}
    print(
        json.dumps(
            {
                "benchmark": "pretrain_step",
                "model": args.model,
                "batch_size": args.batch_size,
                "device": str(compute.device),
                "dtype": str(compute.dtype).removeprefix("torch."),
                "compiled": args.compile,
                "threads": torch.get_num_threads(),
                "cores": os.cpu_count(),
                "seconds": {v: round(s, 4) for v, s in medians.items()},
                "images_per_second": {v: round(args.batch_size / s, 1) for v, s in medians.items()},
                "time_ratio": paired(times),
                "cpu_time_ratio": paired(own) if compute.device.type == "cpu" else None,
                "memory_mb": {v: round(m) for v, m in memory.items()},
                "memory_ratio": {v: round(memory[v] / memory["official"], 3) for v in VARIANTS[1:]},
            }
        )
    )


if __name__ == "__main__":
    main()
