"""Compare training views per second: image by image, in batches on a device, and torchvision.

    python benchmarks/augment.py --device cuda --auto-augment rand-m9-mstd0.5-inc1

torchvision  its v2 transforms on the same loaded images, one process
image        the CPU path in one worker, image by image
worker       the worker's half of the batched path: draw parameters, crop, pack
device       the device's half of the batched path, including the copy to the device

The rate of a run with W workers is at most W times `image`, or the lower of W times `worker` and
`device`. The images are generated at the size that the loader returns; decoding is not measured.

Prints one JSON line: medians of interleaved repeats, and ratios to torchvision in the same run, of
CPU time where the device is the CPU.
"""

import argparse
import json
import os
from collections.abc import Callable

import numpy as np
import torch
from interleaved import time_interleaved
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from gtacli.data.augment.augmentation import Augmentation
from gtacli.data.augment.batched import BatchedAugmentation
from gtacli.data.augment.transforms import TrainTransform
from gtacli.runtime.devices import choose_compute


def make_images(count: int, side: int) -> list[Tensor]:
    """Make images as the loader does: the shorter side is `side`, channels last in memory."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        longer = round(side * rng.uniform(1, 1.5))
        size = (longer, side) if rng.random() < 0.7 else (side, longer)
        pixels = np.array(coarse.resize(size, Image.Resampling.BICUBIC))
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return images


def torchvision_transform(args: argparse.Namespace) -> v2.Transform:
    """Return torchvision's equivalent; any policy becomes RandAugment of magnitude 9."""
    jitter, erasing = args.color_jitter, args.random_erasing
    return v2.Compose(
        [
            v2.RandomResizedCrop(args.image_size, (0.08, 1), (3 / 4, 4 / 3), *_BICUBIC),
            v2.RandomHorizontalFlip(),
            *([v2.RandAugment(2, 9)] if args.auto_augment != "none" else []),
            *([v2.ColorJitter(jitter, jitter, jitter)] if jitter else []),
            *([v2.RandomErasing(erasing)] if erasing else []),
        ]
    )


_BICUBIC = (InterpolationMode.BICUBIC, True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch-size", type=int, default=64)
    p.add_argument("--auto-augment", default="none")
    p.add_argument("--color-jitter", type=float, default=0.0)
    p.add_argument("--random-erasing", type=float, default=0.0)
    p.add_argument("--device", default="auto", help="device of the batched path")
    p.add_argument("--repeats", type=int, default=15)
    args = p.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as in a worker
    compute = choose_compute(args.device, "fp32")
    crop = TrainTransform((args.image_size, args.image_size), (0.08, 1.0))
    ours = Augmentation(crop, args.auto_augment, args.color_jitter, args.random_erasing)
    batched = BatchedAugmentation(ours, compute.device)
    theirs = torchvision_transform(args)
    images = make_images(args.batch_size, crop.load_size[0])
    seeds = iter(range(10**9))

    def rngs() -> list[np.random.Generator]:
        return [np.random.default_rng(next(seeds)) for _ in images]

    def worker() -> object:
        return batched.pack([batched(x, r) for x, r in zip(images, rngs(), strict=True)])

    crops = batched.pack([batched(x, r) for x, r in zip(images, rngs(), strict=True)])
    if compute.device.type == "cuda":  # as in the loader
        crops = crops._replace(**{k: getattr(crops, k).pin_memory() for k in crops._fields[:3]})

    variants: dict[str, Callable[[], object]] = {
        "torchvision": lambda: torch.stack([theirs(x) for x in images]),
        "image": lambda: torch.stack([ours(x, r) for x, r in zip(images, rngs(), strict=True)]),
        "worker": worker,
        "device": lambda: batched.finish(crops),
    }
    timings = time_interleaved(variants, args.repeats, compute, warmup=2)
    medians = timings.medians()
    print(
        json.dumps(
            {
                "benchmark": "augment",
                "image_size": args.image_size,
                "batch_size": args.batch_size,
                "auto_augment": args.auto_augment,
                "color_jitter": args.color_jitter,
                "random_erasing": args.random_erasing,
                "device": str(compute.device),
                "cores": os.cpu_count(),
                "images_per_second": {n: round(len(images) / s, 1) for n, s in medians.items()},
                "times_torchvision": {n: timings.ratio("torchvision", n) for n in variants},
            }
        )
    )


if __name__ == "__main__":
    main()
