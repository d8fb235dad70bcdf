"""Compare steps that train a part of the network (`--train`), with GTA, to plain full fine-tuning.

    python benchmarks/lora.py --model vit_tiny_patch16_224 --batch-size 16

full       plain fine-tuning of every parameter, without a penalty
full+gta   with GTA: a source of its own, on packed weights
lora       adapters alone
lora+gta   adapters with GTA: the source shares the frozen weights
norm+bias+gta, head    likewise

Prints one JSON line: medians of interleaved repeats and their ratios to `full` in the same run, of
the clock (`time_ratio`) and on a CPU of CPU time (`ratio`), the share of the parameters that learn,
the bytes of the optimizer's state, and those of both networks' weights. The weights are random: the
time does not depend on them.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from interleaved import median_ratio, time_interleaved
from torch import Tensor

from gtacli.config.parts import GTAOptions
from gtacli.data.loader import Batch
from gtacli.finetuning.task import FinetuneTask
from gtacli.finetuning.trainable import (
    adapt,
    copy_source,
    count,
    count_learning,
    freeze,
    shares_weights,
)
from gtacli.models import load_model
from gtacli.models.packed_linear import FusedLinear, pack
from gtacli.regularizers.gta import GTA
from gtacli.runtime.devices import choose_compute, keep_freed_memory
from gtacli.training.optimization import make_optimizer

CLASSES = 50


def storage(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the distinct memory of tensors."""
    return sum({t.data_ptr(): t.nbytes for t in tensors}.values())


def make_step(variant: str, args: argparse.Namespace) -> tuple[Callable[[], None], dict[str, Any]]:
    """Return a function that runs one complete optimizer step, and what the variant costs."""
    train = variant.removesuffix("+gta").replace("full", "all").replace("lora", args.lora)
    compute = choose_compute(args.device, args.precision)
    torch.manual_seed(0)
    target = load_model(f"{args.model}@none", CLASSES, args.image_size)
    freeze(target, train)
    source, penalties, packed = None, {}, 0
    if variant.endswith("+gta"):
        source = replace(target, model=copy_source(target.model))
    adapt(target, train, 0)
    model = target.model.to(compute.device)
    if source is not None:
        source.model.to(compute.device).requires_grad_(False)
        penalties = {"gta": GTA(GTAOptions(), model, source.model, target.head)}
    weights = storage([*model.parameters(), *(source.model.parameters() if source else ())])
    if source is not None:
        pack(source.model, compute.frozen.dtype, shares_weights(source.model, model))
        packed = sum(isinstance(module, FusedLinear) for module in source.model.modules())
    task = FinetuneTask(target, source, penalties, compute).train()
    optimizer = make_optimizer(model, target.head, "adamw", 1e-5, 10.0, 0.05, None)
    size = (args.batch_size, 3, *target.image_size)
    images = torch.randint(0, 256, size, dtype=torch.uint8, device=compute.device)
    labels = torch.randint(0, CLASSES, (args.batch_size,), device=compute.device)
    batch = Batch(images, labels, torch.arange(args.batch_size), torch.zeros(args.batch_size, 5))

    def step() -> None:
        with compute.autocast():
            loss = task(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    states = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
    return step, {
        "learning": count_learning(model),
        "share": round(count_learning(model) / count(model.parameters()), 5),
        "optimizer_bytes": storage(states),
        "weight_bytes": weights,
        "packed_layers": packed,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="vit_tiny_patch16_224")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", default="auto")
    p.add_argument("--lora", default="lora", help="lora, or lora:RANK")
    p.add_argument("--repeats", type=int, default=15)
    args = p.parse_args()
    keep_freed_memory()
    compute = choose_compute(args.device, args.precision)
    variants = ("full", "full+gta", "lora", "lora+gta", "norm+bias+gta", "head")
    made = {v: make_step(v, args) for v in variants}
    timings = time_interleaved({v: step for v, (step, _) in made.items()}, args.repeats, compute, 1)
    costs = {v: cost for v, (_, cost) in made.items()}
    full = costs["full"]["optimizer_bytes"]
    print(
        json.dumps(
            {
                "benchmark": "lora",
                "model": args.model,
                "image_size": args.image_size,
                "batch_size": args.batch_size,
                "device": str(compute.device),
                "dtype": str(compute.dtype).removeprefix("torch."),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "seconds": {v: round(s, 4) for v, s in timings.medians().items()},
                "time_ratio": {
                    v: round(median_ratio(timings.wall[v], timings.wall["full"]), 3)
                    for v in variants[1:]
                },
                "ratio": {v: timings.ratio(v, "full") for v in variants[1:]},
                "optimizer_ratio": {
                    v: round(costs[v]["optimizer_bytes"] / full, 4) for v in variants[1:]
                },
                **{key: {v: costs[v][key] for v in variants} for key in costs["full"]},
            }
        )
    )


if __name__ == "__main__":
    main()
