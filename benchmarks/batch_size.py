"""Measure the search of `--batch-size auto`: what it finds, how long it takes, and what that costs.

    python benchmarks/batch_size.py --model vit_base_patch16_224 --batch-size 4096 --device cuda

Prints one JSON line: the part that was found, the seconds of the search, the bytes that a step on
it takes, and whether a step on the next larger part fails, which shows how much is left unused.
`--fraction 0.25` lets a GPU give only so much of its memory. Measured on the CPU alone so far.
"""

import argparse
import json
import time
from tempfile import TemporaryDirectory

import torch

from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.prepare import prepare
from gtacli.runtime.machine import available_memory, peak_memory, reset_peak_memory
from gtacli.training.batch_parts import Trial, part_sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", default="demo")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--fraction", type=float, default=1.0)
    args = parser.parse_args()
    with TemporaryDirectory() as out:
        config = FinetuneConfig(
            model=args.model,
            data=args.data,
            out=out,
            image_size=args.image_size,
            batch_size=args.batch_size,
            device=args.device,
            precision=args.precision,
            lam=0.1,
        )
        job = prepare(config)
        if job.compute.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(args.fraction, job.compute.device)
        sizes = part_sizes(args.batch_size)
        free = available_memory()
        start = time.perf_counter()
        found = Trial(job, 1, None).largest(sizes)
        seconds = time.perf_counter() - start
        result = {"model": args.model, "device": str(job.compute.device), "found": found}
        result |= {"batch_size": args.batch_size, "seconds": round(seconds, 2), "free": free}
        if found is not None:
            reset_peak_memory()
            job.compute.reset_peak_memory()
            trial = Trial(job, 1, None)
            trial.largest([found])
            on_gpu = job.compute.device.type == "cuda"
            result["peak_mb"] = round(
                job.compute.peak_memory_mb() if on_gpu else peak_memory() / 2**20
            )
            larger = [size for size in sizes if size > found]
            if on_gpu and larger:
                result["next_fails"] = trial.largest(larger[:1]) is None
    print(json.dumps(result))


if __name__ == "__main__":
    main()
