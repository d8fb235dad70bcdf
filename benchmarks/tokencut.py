"""Compare TokenCut, from patch features to mask and box, with the published dense solution.

    python benchmarks/tokencut.py --sizes 14 30 60
    python benchmarks/tokencut.py --sizes 30 --features keys.pt

published  affinity, scipy.linalg.eigh(D - A, D, subset_by_index=[1, 2]) in float64 on the CPU, and
           the component of the seed, image by image; with BLAS on one thread and on as many as
           ours uses, of which the faster counts (several threads are slower for small matrices and
           on a busy machine)
single     gtacli.normalized_cut, image by image
batch      gtacli.normalized_cut of all images at once

Synthetic features are a textured object on a textured background, with noise; `--features` is a
tensor (B, N, C) saved by `torch.save`.

Prints one JSON line per size: medians of interleaved repeats in milliseconds per image, the ratio
of the published solution to ours in the same run (on a CPU of CPU time), and the IoU of the masks.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from interleaved import median_interval, ratios, time_interleaved
from scipy import ndimage
from threadpoolctl import ThreadpoolController
from torch import Tensor

from gtacli import normalized_cut
from gtacli.discovery import NormalizedCut
from gtacli.runtime.devices import Compute, choose_compute

TAU, EPS = 0.2, 1e-5


def synthetic(images: int, side: int, width: int) -> Tensor:
    """Make features (B, side^2, C): mixtures of a texture of the region and a shared vector."""
    g = torch.Generator().manual_seed(0)
    features = []
    for _ in range(images):
        shared = torch.randn(width, generator=g)
        textures = torch.randn(2, 4, width, generator=g)
        inside = torch.zeros(side, side, dtype=torch.long)
        h, w = (int(x) for x in torch.randint(side // 4, side // 2 + 1, (2,), generator=g))
        y, x = (int(torch.randint(side - k + 1, (1,), generator=g)) for k in (h, w))
        inside[y : y + h, x : x + w] = 1
        which = torch.randint(4, (side * side,), generator=g)
        patches = 0.3 * shared + 0.7 * textures[inside.flatten(), which]
        region = torch.randn(2, width, generator=g)[inside.flatten()]
        features.append(patches + 0.7 * region + 0.6 * torch.randn(side * side, width, generator=g))
    return torch.stack(features)


def published(features: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Return the mask of one image's features (N, C), as in the official object_discovery.py."""
    f = torch.nn.functional.normalize(features, dim=-1)
    a = (f @ f.T).numpy() > TAU
    a = np.where(a, 1.0, EPS)
    d = np.diag(a.sum(-1))
    _, vectors = scipy.linalg.eigh(d - a, d, subset_by_index=[1, 2])
    y = vectors[:, 0]
    side, seed = y > y.mean(), np.abs(y).argmax()
    if not side[seed]:
        side = ~side
    labels, _ = ndimage.label(side.reshape(grid))
    return labels == labels.flat[seed]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--sizes", type=int, nargs="+", default=[14, 30, 60], help="patches per side")
    p.add_argument("--images", type=int, default=8)
    p.add_argument("--width", type=int, default=384, help="width of synthetic features")
    p.add_argument("--features", type=Path)
    p.add_argument("--device", default="auto", help="device of ours")
    p.add_argument("--repeats", type=int, default=7)
    p.add_argument(
        "--published-images",
        type=int,
        default=2,
        help="images per repeat for the published solution",
    )
    args = p.parse_args()
    compute = choose_compute(args.device, "fp32")
    for side in args.sizes:
        if args.features:
            features = torch.load(args.features, weights_only=True)[: args.images].float()
        else:
            features = synthetic(args.images, side, args.width)
        if features.shape[1] != side * side:
            p.error(f"{args.features}: {features.shape[1]} patches are not {side} x {side}")
        print(json.dumps(measure(features, (side, side), compute, args)), flush=True)


def measure(
    features: Tensor, grid: tuple[int, int], compute: Compute, args: argparse.Namespace
) -> dict[str, object]:
    """Time all variants on one set of features and compare the masks."""
    ours = features.to(compute.device)
    few = features[: args.published_images]

    def by_scipy(threads: int) -> list[np.ndarray]:
        with blas.limit(limits=threads):
            return [published(f, grid) for f in few]

    blas = ThreadpoolController().select(user_api="blas")
    counts = sorted({1, torch.get_num_threads()})
    variants: dict[str, tuple[int, Callable[[], object]]] = {
        f"published_{n}": (len(few), partial(by_scipy, n)) for n in counts
    }
    variants |= {
        "single": (len(ours), lambda: [normalized_cut(f[None], grid, TAU, EPS) for f in ours]),
        "batch": (len(ours), lambda: normalized_cut(ours, grid, TAU, EPS)),
    }
    names = list(variants)
    runs = {name: run for name, (_, run) in variants.items()}
    timings = time_interleaved(runs, args.repeats, compute, cold=names[: len(counts)])
    times, own = (
        {name: [s / variants[name][0] for s in of] for name, of in clock.items()}
        for clock in (timings.wall, timings.own)
    )
    cut = timings.results["batch"]
    assert isinstance(cut, NormalizedCut)
    best = min(names[: len(counts)], key=lambda name: statistics.median(times[name]))
    masks = cut.mask[: len(few)].cpu().numpy()
    both = zip(masks, timings.results[best], strict=True)
    iou = [float((a & b).sum() / (a | b).sum()) for a, b in both]
    return {
        "benchmark": "tokencut",
        "patches": grid[0] * grid[1],
        "width": features.shape[-1],
        "images": len(ours),
        "features": str(args.features.name) if args.features else "synthetic",
        "device": str(compute.device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "ms_per_image": {n: round(1e3 * statistics.median(t), 2) for n, t in times.items()},
        "times_faster": {
            n: median_interval(ratios(own[best], own[n])) for n in ("single", "batch")
        },
        "iou_mean": round(statistics.mean(iou), 6),
        "iou_min": round(min(iou), 6),
    }


if __name__ == "__main__":
    main()
