"""Compare a pre-training step with that of the published MAE.

    python benchmarks/pretrain_step.py --repos DIR --model base --batch-size 16

official  facebookresearch/mae's model (a checkout `mae` in DIR) and its optimizer
mae       ours: the same network, masks, loss and gradients (`pretrain_parity.py`)
guided    the same with cached maps, cropped with their images; no teacher
teacher   the same with maps that --guide computes with --teacher for each view
crossmae  ours with CrossMAE's decoder; a quarter of the patches is predicted

All use 224 pixels, patches of 16, decoder 512 x 8, random images. With --compile every variant is
compiled. Prints one JSON line: medians of interleaved repeats, ratios to official in the same run
(`time_ratio` of the clock, `ratio` on the CPU of CPU time, which other processes disturb less), and
peak memory (on the CPU of a new process per variant, on a GPU of the allocator).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleaved import median_ratio, time_interleaved
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
    """Return a function that runs one complete optimizer step."""
    compute = choose_compute(args.device, args.precision)
    device, b = compute.device, args.batch_size
    torch.manual_seed(0)
    network: Any
    if variant == "official":
        network = official(args.repos, args.model, "mae")
    else:
        network = ours(args.model, "crossmae" if variant == "crossmae" else "mae")
    network = network.to(device).train()
    decay = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.5e-4, betas=(0.9, 0.95))
    images = torch.randn(b, 3, 224, 224, device=device)
    maps = torch.randint(0, 256, (b, 28, 28), dtype=torch.uint8, device=device)
    shown = torch.tensor([[0.1, 0.2, 0.8, 0.7, 1.0]], device=device).expand(b, 5)
    model = torch.compile(network, dynamic=False) if args.compile else network
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
    """Return the peak memory of three steps in MB."""
    compute = choose_compute(args.device, args.precision)
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
        step = make_step(variant, args)
        step()  # compiling takes memory, too
        compute.reset_peak_memory()
        for _ in range(3):
            step()
        return compute.peak_memory_mb()
    child = [sys.executable, __file__, *sys.argv[1:], "--peak-of", variant]
    return float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)


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
    warnings.filterwarnings("ignore")  # the published code uses old names of torch and timm
    compute = choose_compute(args.device, args.precision)
    if args.peak_of:
        step = make_step(args.peak_of, args)
        for _ in range(3):
            step()
        print(compute.peak_memory_mb())
        return
    steps = {v: make_step(v, args) for v in VARIANTS}
    timings = time_interleaved(steps, args.repeats, compute, warmup=2)
    medians = timings.medians()
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
                "time_ratio": {
                    v: round(median_ratio(timings.wall[v], timings.wall["official"]), 3)
                    for v in VARIANTS[1:]
                },
                "ratio": {v: timings.ratio(v, "official") for v in VARIANTS[1:]},
                "memory_mb": {v: round(m) for v, m in memory.items()},
                "memory_ratio": {v: round(memory[v] / memory["official"], 3) for v in VARIANTS[1:]},
            }
        )
    )


if __name__ == "__main__":
    main()
