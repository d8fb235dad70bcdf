"""Attention maps end to end (decode, model, draw, encode) against the bare forward pass.

python benchmarks/attention_export.py --images PHOTOS [--model SPEC] [--image-size 224]

Per style: images per second as a share of what the bare model does on normalised batches of the
same sizes that are in memory already, with torch's own threads; and against the usual way: image by
image, attention unfused so that a hook can catch it, drawn and saved with Pillow's defaults. All
take turns in one process; medians over the repeats. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from gtacli.config.attention_map import AttentionMapConfig
from gtacli.data.inputs import InputImage, iter_images
from gtacli.images.decode import decode
from gtacli.inference.attention_maps.export import export_maps
from gtacli.inference.attention_maps.files import PNG_LEVEL, MapFiles
from gtacli.inference.attention_maps.make import make_extractors
from gtacli.models import load_model
from gtacli.rendering.heatmap import overlay_map, resize_map, value_range
from gtacli.runtime.devices import Compute, choose_compute

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="a folder of photographs")
    parser.add_argument("--model", default="vit_tiny_patch16_224@none")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--naive", type=int, default=40, help="images of the usual way; 0: none")
    a = parser.parse_args()
    compute = choose_compute(a.device, a.precision)
    images = list(iter_images([a.images], sys.stdin.buffer))[: a.count]
    size = {} if a.image_size is None else {"image_size": a.image_size}
    model = load_model(a.model, **size)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "bare": (bare(model, len(images), compute), len(images))
    }
    with TemporaryDirectory() as folder:
        for style in ("overlay", "heat", "raw"):
            config = AttentionMapConfig(model=a.model, style=style, **size)
            ways[style] = (export(config, images, compute, Path(folder) / style), len(images))
        if a.naive:
            some = images[: a.naive]
            ways["unfused"] = (unfused(a.model, size, some, compute, Path(folder)), len(some))
        speeds = interleaved(ways, a.repeats)
    result: dict[str, Any] = {
        "model": a.model,
        "image_size": model.image_size,
        "images": len(images),
        "threads": torch.get_num_threads(),
        "device": str(compute.device),
        "dtype": str(compute.dtype),
        "png_level": PNG_LEVEL,
        "images_per_second": {k: round(statistics.median(v), 2) for k, v in speeds.items()},
    }
    for way, values in speeds.items():
        shares = [value / alone for value, alone in zip(values, speeds["bare"], strict=True)]
        result[f"{way}_of_bare"] = round(statistics.median(shares), 3)
    print(json.dumps(result))


def interleaved(
    ways: dict[str, tuple[Callable[[], object], int]], repeats: int
) -> dict[str, list[float]]:
    """Images a second of each way, one repeat after the other; the first one warms up."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (run, images) in ways.items():
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            if repeat:
                speeds[name].append(images / seconds)
    return speeds


def bare(model: Any, count: int, compute: Compute) -> Callable[[], object]:
    network = model.model.to(compute.device)
    batch = torch.randn(BATCH, 3, *model.image_size, device=compute.device)

    @torch.inference_mode()
    def run() -> None:
        with compute.autocast():
            for start in range(0, count, BATCH):
                network(batch[: count - start])
        compute.synchronize()

    return run


def export(
    config: AttentionMapConfig, images: list[InputImage], compute: Compute, folder: Path
) -> Callable[[], object]:
    extractors = make_extractors(config, [str(config.model)], compute)
    files = MapFiles(folder, config.style)
    return lambda: [None for _ in export_maps(extractors, images, compute, files)]


def unfused(
    spec: str, size: dict[str, Any], images: list[InputImage], compute: Compute, folder: Path
) -> Callable[[], object]:
    """A forward hook on the last block's attention, whose softmax is made to exist."""
    model = load_model(spec, **size)
    network: Any = model.model.to(compute.device)
    caught: dict[str, torch.Tensor] = {}
    for block in network.blocks:
        block.attn.fused_attn = False
    last = network.blocks[-1].attn.attn_drop
    assert isinstance(last, nn.Dropout)
    last.register_forward_hook(lambda _m, _i, out: caught.update(attention=out))

    @torch.no_grad()
    def run() -> None:
        for i, image in enumerate(images):
            picture = decode(image.source)
            network(model.preprocess(picture)[None].to(compute.device))
            rows = caught["attention"][0, :, 0, model.num_prefix_tokens :]
            grid = rows.amax(0).reshape(model.grid).cpu().numpy()
            grey = resize_map(grid, (picture.height, picture.width), value_range(grid))
            overlay_map(picture, grey, "plasma").save(folder / f"{i}.png")

    return run


if __name__ == "__main__":
    main()
