"""Compare attention maps end to end (decode, model, draw, encode) with the bare forward pass.

python benchmarks/attention_export.py --images PHOTOS [--model SPEC] [--image-size 224]

Per style: images per second as a fraction of those of the bare model on normalized batches of the
same sizes in memory, with torch's own threads. Also measures the usual method: image by image, with
unfused attention that a hook can read, drawn and saved with Pillow's defaults. All variants take
turns in one process; medians over the repeats, the fractions on a CPU of CPU time. Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from interleaved import median_interval, ratios, time_interleaved
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
    parser.add_argument(
        "--naive", type=int, default=40, help="images of the usual method; 0: skip it"
    )
    a = parser.parse_args()
    compute = choose_compute(a.device, a.precision)
    images = list(iter_images([a.images], sys.stdin.buffer))[: a.count]
    size = {} if a.image_size is None else {"image_size": a.image_size}
    model = load_model(a.model, **size)
    variants: dict[str, tuple[Callable[[], object], int]] = {
        "bare": (bare(model, len(images), compute), len(images))
    }
    with TemporaryDirectory() as folder:
        for style in ("overlay", "heat", "raw"):
            config = AttentionMapConfig(model=a.model, style=style, **size)
            variants[style] = (export(config, images, compute, Path(folder) / style), len(images))
        if a.naive:
            some = images[: a.naive]
            variants["unfused"] = (unfused(a.model, size, some, compute, Path(folder)), len(some))
        runs = {name: run for name, (run, _) in variants.items()}
        timings = time_interleaved(runs, a.repeats, compute)
    speeds, own = (
        {name: [variants[name][1] / s for s in of] for name, of in clock.items()}
        for clock in (timings.wall, timings.own)
    )
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
    for name, values in own.items():
        result[f"{name}_of_bare"] = median_interval(ratios(values, own["bare"]))
    print(json.dumps(result))


def bare(model: Any, count: int, compute: Compute) -> Callable[[], object]:
    """Return a function that runs the model on batches in memory."""
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
    """Return a function that exports the maps as `gta attention-map` does."""
    extractors = make_extractors(config, [str(config.model)], compute)
    files = MapFiles(folder, config.style)
    return lambda: [None for _ in export_maps(extractors, images, compute, files)]


def unfused(
    spec: str, size: dict[str, Any], images: list[InputImage], compute: Compute, folder: Path
) -> Callable[[], object]:
    """Return a function that reads the unfused attention of the last block with a hook."""
    model = load_model(spec, **size)
    network: Any = model.model.to(compute.device)
    attention: dict[str, torch.Tensor] = {}
    for block in network.blocks:
        block.attn.fused_attn = False
    last = network.blocks[-1].attn.attn_drop
    assert isinstance(last, nn.Dropout)
    last.register_forward_hook(lambda _m, _i, out: attention.update(last=out))

    @torch.no_grad()
    def run() -> None:
        for i, image in enumerate(images):
            picture = decode(image.source)
            network(model.preprocess(picture)[None].to(compute.device))
            rows = attention["last"][0, :, 0, model.num_prefix_tokens :]
            grid = rows.amax(0).reshape(model.grid).cpu().numpy()
            gray = resize_map(grid, (picture.height, picture.width), value_range(grid))
            overlay_map(picture, gray, "plasma").save(folder / f"{i}.png")

    return run


if __name__ == "__main__":
    main()
