"""Compare a fine-tuning step with GTA to a plain step and to a naive implementation.

    python benchmarks/finetune_step.py --model vit_tiny_patch16_224 --batch-size 16

plain  timm's model, cross-entropy, the optimizer
gta    the same step with the GTA penalty on every block, as in `gta finetune`
fp32   the same with the source in fp32, where `precision=auto` reads it in bf16
half   the same with both networks in bf16 (`precision=bf16`)
kept   the same with --source-views, after the source's attention is cached
naive  without fused attention; every block's N x N logits stay in memory until the loss

With --compile each but naive has a twin beside it that is compiled (`gta-compiled`), with an empty
cache of kernels, but that `kept` uses those of `gta` again. `compiled` then has for each the ratio
to its twin, the ratio of twins to that of plain, the seconds that its first step takes more than a
later one, and the number of steps from which on that is earned back (null: never).

Prints one JSON line: medians of interleaved repeats, ratios to plain in the same run (`time_ratio`
of the clock, `ratio` on a CPU of CPU time), and peak memory (on the CPU of a new process per
variant, on a GPU of the allocator). The weights are random: the time does not depend on them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import timm
import torch
from interleaved import Timings, cpu_seconds, median_ratio, time_interleaved
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.config.parts import GTAOptions
from gtacli.data.loader import Batch
from gtacli.finetuning.task import FinetuneTask
from gtacli.models import load_model
from gtacli.models.packed_linear import pack
from gtacli.regularizers.gta import GTA
from gtacli.runtime.devices import Compute, choose_compute
from gtacli.training.optimization import make_optimizer

VARIANTS = ("plain", "gta", "fp32", "half", "kept", "naive")
OURS = {"gta": None, "kept": None, "fp32": "fp32", "half": "bf16"}
"""Precision of the variants of `gta finetune`; None: that of the option."""
CLASSES = 50
COMPILED = "-compiled"


def naive_attention(attn: nn.Module, stored: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """Return unfused attention that stores its logits, as the published ports do."""

    def forward(x: Tensor, *_: object, **__: object) -> Tensor:
        b, n, _c = x.shape
        q, k, v = attn.qkv(x).reshape(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        logits = (q * attn.scale) @ k.transpose(-2, -1)
        stored.append(logits)
        return attn.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))

    return forward


def make_step(variant: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return a function that runs one complete optimizer step."""
    compiled = variant.endswith(COMPILED)
    variant = variant.removesuffix(COMPILED)
    compute = choose_compute(args.device, OURS.get(variant) or args.precision)
    torch.manual_seed(0)
    spec = f"{args.model}@none"
    target = load_model(spec, CLASSES, args.image_size)
    model = target.model.to(compute.device).train()
    optimizer = make_optimizer(model, target.head, "adamw", 1e-5, 10.0, 0.05, None)
    images = torch.randint(
        0, 256, (args.batch_size, 3, *target.image_size), dtype=torch.uint8, device=compute.device
    )
    labels = torch.randint(0, CLASSES, (args.batch_size,), device=compute.device)
    if variant in OURS:
        source = load_model(spec, 0, args.image_size)
        source.model.to(compute.device)
        options = GTAOptions(rows=args.rows, layers=args.layers)
        if not compiled:
            pack(source.model, compute.frozen.dtype)
        penalty = GTA(options, model, source.model, target.head)
        task = FinetuneTask(target, source, {"gta": penalty}, compute).train()
        if compiled:
            task.compile()
        indices = torch.arange(args.batch_size)
        batch = Batch(images, labels, indices, torch.zeros(args.batch_size, 5))
        if variant == "kept":
            task.cache_source(args.batch_size, 1)
            task.source_cache.fill(lambda *_: [batch], task.run_source)

        def losses() -> Tensor:
            return task(batch)["loss"]

    else:
        mean = torch.tensor(target.mean, device=compute.device).view(-1, 1, 1) * 255
        std = torch.tensor(target.std, device=compute.device).view(-1, 1, 1) * 255
        target_logits: list[Tensor] = []
        source_logits: list[Tensor] = []
        forward: nn.Module = model
        frozen: nn.Module | None = None
        if variant == "naive":
            frozen = timm.create_model(args.model, num_classes=0, img_size=args.image_size)
            frozen = frozen.to(compute.device).eval().requires_grad_(False)
            for network, stored in ((model, target_logits), (frozen, source_logits)):
                for block in network.blocks:
                    block.attn.forward = naive_attention(block.attn, stored)
        if compiled:
            forward = torch.compile(model, fullgraph=True, dynamic=False)

        def losses() -> Tensor:
            x = images.float().sub_(mean).div_(std)
            target_logits.clear()
            source_logits.clear()
            if frozen is not None:
                with torch.no_grad():
                    frozen(x)
            loss = F.cross_entropy(forward(x), labels)
            if frozen is not None:
                pairs = zip(target_logits, source_logits, strict=True)
                rows = [(t[:, :, 0, 1:] - s[:, :, 0, 1:]).square().sum(-1).mean() for t, s in pairs]
                loss = loss + 0.1 * torch.stack(rows).mean()
            return loss

    def step() -> None:
        with compute.autocast():
            loss = losses()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peak_memory(variant: str, args: argparse.Namespace) -> float:
    """Return the peak memory of three steps in MB."""
    compute = choose_compute(args.device, args.precision)
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = make_step(variant, args)
        for _ in range(3):
            step()
        return compute.peak_memory_mb()
    child = [sys.executable, __file__, *sys.argv[1:], "--peak-of", variant]
    return float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)


def first_seconds(step: Callable[[], None], compute: Compute) -> float:
    """Return the seconds of a first step, which compiles; on a CPU those of CPU time."""
    start, cpu = time.perf_counter(), cpu_seconds()
    step()
    compute.synchronize()
    on_cpu = compute.device.type == "cpu"
    return cpu_seconds() - cpu if on_cpu else time.perf_counter() - start


def pays(twin: str, first: float, timings: Timings) -> dict[str, object]:
    """Return what compiling costs and gains."""
    plain, name = f"plain{COMPILED}", twin.removesuffix(COMPILED)
    step, other = (statistics.median(timings.own[v]) for v in (twin, name))
    cost, gain = first - step, other - step
    return {
        "ratio": timings.ratio(twin, name),
        "of_plain": timings.ratio(twin, plain),
        "seconds": round(cost, 1),
        "pays_from": round(cost / gain) if gain > 0 else None,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="vit_tiny_patch16_224")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", default="auto")
    p.add_argument("--layers", default="all")
    p.add_argument("--rows", default="cls", choices=("cls", "all"))
    p.add_argument("--compile", action="store_true", help="measure compiled twins, too")
    p.add_argument("--repeats", type=int, default=15)
    p.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    p.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    p.add_argument("--peak-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = p.parse_args()
    compute = choose_compute(args.device, args.precision)
    if args.peak_of:
        step = make_step(args.peak_of, args)
        for _ in range(3):
            step()
        print(compute.peak_memory_mb())
        return
    variants = [v for v in VARIANTS if v == "plain" or v in args.variants]
    if args.rows == "all" and "kept" in variants:
        variants.remove("kept")
    twins = [v + COMPILED for v in variants if v != "naive"] if args.compile else []
    variants += twins
    steps = {v: make_step(v, args) for v in variants}
    with tempfile.TemporaryDirectory() as folder:
        first = {}
        for v in twins:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, v)
            first[v] = first_seconds(steps[v], compute)
        timings = time_interleaved(steps, args.repeats, compute, warmup=2)
    medians, times = timings.medians(), timings.wall
    steps.clear()
    memory = {} if args.no_memory else {v: peak_memory(v, args) for v in variants}
    print(
        json.dumps(
            {
                "benchmark": "finetune_step",
                "model": args.model,
                "image_size": args.image_size,
                "batch_size": args.batch_size,
                "device": str(compute.device),
                "dtype": str(compute.dtype).removeprefix("torch."),
                "compiled": {v: pays(v, first[v], timings) for v in twins},
                "cores": os.cpu_count(),
                "seconds": {v: round(s, 4) for v, s in medians.items()},
                "images_per_second": {v: round(args.batch_size / s, 1) for v, s in medians.items()},
                "time_ratio": {
                    v: round(median_ratio(times[v], times["plain"]), 3) for v in variants[1:]
                },
                "ratio": {v: timings.ratio(v, "plain") for v in variants[1:]},
                "memory_mb": {v: round(m) for v, m in memory.items()},
                "memory_ratio": {v: round(m / memory["plain"], 3) for v, m in memory.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
