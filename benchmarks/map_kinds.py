"""Compare kinds of attention maps with the bare forward pass, and forward and backward pass.

python benchmarks/map_kinds.py [--model SPEC] [--image-size 224] [--kinds cls,rollout,...]

Images per second of each kind on one batch in memory, beside those of the model's forward pass
(without gradients) and of forward and backward pass to the patches' embeddings. All variants take
turns in one process; medians over the repeats, ratios on a CPU of CPU time. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from interleaved import time_interleaved
from torch import Tensor

from gtacli.config.attention_map import AttentionMapConfig
from gtacli.inference.attention_maps.make import make_method
from gtacli.models import load_model, timm_blocks
from gtacli.runtime.devices import Compute, choose_compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_tiny_patch16_224@none")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--kinds", default="cls,rollout,gradcam,attnlrp,chefer")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    a = parser.parse_args()
    compute = choose_compute(a.device, a.precision)
    size = {} if a.image_size is None else {"image_size": a.image_size}
    model = load_model(a.model, **size)
    network = model.model.eval().requires_grad_(False).to(compute.device)
    images = torch.randn(a.batch_size, 3, *model.image_size, device=compute.device)
    variants = {"forward": forward(network, images), "forward_backward": both(network, images)}
    for kind in a.kinds.split(","):
        method = make_method(AttentionMapConfig(kind=kind, style="raw"), model)
        variants[kind] = run_method(method, images)
    autocast = {name: in_precision(run, compute) for name, run in variants.items()}
    timings = time_interleaved(autocast, a.repeats, compute)
    result: dict[str, Any] = {
        "model": a.model,
        "image_size": model.image_size,
        "batch_size": a.batch_size,
        "threads": torch.get_num_threads(),
        "device": str(compute.device),
        "dtype": str(compute.dtype),
        "images_per_second": {
            name: round(a.batch_size / s, 2) for name, s in timings.medians().items()
        },
    }
    for reference in ("forward", "forward_backward"):
        result[f"of_{reference}"] = {name: timings.ratio(reference, name) for name in variants}
    print(json.dumps(result))


def forward(network: Any, images: Tensor) -> Callable[[], object]:
    """Return a function that runs the model without gradients."""

    @torch.no_grad()
    def run() -> None:
        network(images)

    return run


def both(network: Any, images: Tensor) -> Callable[[], object]:
    """Return a function that computes the gradient of the patches' embeddings."""

    def run() -> None:
        patches = timm_blocks.patch_tokens(network, images).detach().requires_grad_()
        x, ropes = timm_blocks.add_positions(network, patches)
        for i, block in enumerate(network.blocks):
            x = timm_blocks.plain_block(network, block, x, None if ropes is None else ropes[i])
        score = timm_blocks.classify(network, network.norm(x), None).amax(1).sum()
        torch.autograd.grad(score, patches)

    return run


def run_method(method: Any, images: Tensor) -> Callable[[], object]:
    """Return a function that computes the maps of a kind."""
    return lambda: method(images)


def in_precision(run: Callable[[], object], compute: Compute) -> Callable[[], object]:
    """Return `run` in the precision of the device."""

    def inside() -> None:
        with compute.autocast():
            run()

    return inside


if __name__ == "__main__":
    main()
