"""Compare ways to read JPEG files at a network's size: ours, torchvision's, and on the device.

    python benchmarks/decode.py --device cuda

ours         as images are loaded for training: Pillow decodes, at a fraction of the size where that
             suffices, torch resizes
evaluation   as images are loaded for evaluation: Pillow decodes and resizes
torchvision  `decode_jpeg` at full size, then its antialiased resize
device       `decode_jpeg` of a batch on the device (nvJPEG), then its resize there; CUDA only

One process, one thread. The photographs are drawn: 640 x 480, quality 90. Prints one JSON line:
medians of interleaved repeats, and ratios to ours in the same run, of CPU time on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from io import BytesIO

import torch
from interleaved import time_interleaved
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import resize

from gtacli.images.decode import EncodedImage, load
from gtacli.images.loading import load_for_training
from gtacli.runtime.devices import choose_compute
from gtacli.scenes.trials import draw_trial

DRAWN = 16


def make_photographs(count: int) -> list[bytes]:
    """Draw photographs of 640 x 480, `DRAWN` different ones at several qualities."""
    drawn = [Image.fromarray(draw_trial(k, 640)[0]).crop((0, 80, 640, 560)) for k in range(DRAWN)]
    files = []
    for k in range(count):
        file = BytesIO()
        drawn[k % DRAWN].save(file, "JPEG", quality=90 - k // DRAWN)
        files.append(file.getvalue())
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--count", type=int, default=64, help="photographs of a batch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker
    compute = choose_compute(args.device, "fp32")
    files = make_photographs(args.count)
    images = [EncodedImage(f"{k}.jpg", data) for k, data in enumerate(files)]
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    size = args.image_size

    def shrink(pixels: list[Tensor]) -> Tensor:
        return torch.stack([resize(one, [size], antialias=True)[:, :, :size] for one in pixels])

    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: [load_for_training(image, (size, size)) for image in images],
        "evaluation": lambda: [load(image, (size, size)) for image in images],
        "torchvision": lambda: shrink([decode_jpeg(one, ImageReadMode.RGB) for one in encoded]),
    }
    if compute.device.type == "cuda":
        variants["device"] = lambda: shrink(
            decode_jpeg(encoded, ImageReadMode.RGB, device=compute.device)
        )
    timings = time_interleaved(variants, args.repeats, compute, warmup=2)
    medians = timings.medians()
    result = {
        "benchmark": "decode",
        "image_size": size,
        "device": str(compute.device),
        "cores": os.cpu_count(),
        "images_per_second": {n: round(len(files) / s, 1) for n, s in medians.items()},
        "times_ours": {n: timings.ratio(n, "ours") for n in variants if n != "ours"},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
