"""Divide a CPU's cores between loading images and training; prints JSON.

    python benchmarks/loader_threads.py [--model vit_tiny_patch16_224 --image-size 160]

Training steps on photographs that are decoded anew (drawn, 640 x 480, quality 90), with so many
processes that load and so many threads that train: images a second by the clock, as multiples of
those of the program's own choice, medians of interleaved repeats.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from decode import make_photographs
from interleaved import time_interleaved

from gtacli.data.augment.augmentation import Augmentation
from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.base import Record
from gtacli.data.loader import make_loader
from gtacli.data.store import ImageStore
from gtacli.models.loading import load_model
from gtacli.runtime.devices import choose_compute, choose_workers
from gtacli.runtime.machine import usable_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_tiny_patch16_224@none")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--threads", type=int, nargs="*", help="that train [all cores]")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    compute, cores = choose_compute("cpu", "fp32"), usable_cores()
    model = load_model(args.model, 10, args.image_size)
    network = model.model.train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-4)
    transform = Augmentation(TrainTransform(model.image_size), "none", 0.0, 0.0)
    view = model.view(compute.device)
    with tempfile.TemporaryDirectory() as folder:
        records = []
        for number, data in enumerate(make_photographs(args.images)):
            path = Path(folder) / f"{number}.jpg"
            path.write_bytes(data)
            records.append(Record(key=path.name, path=path, label=number % 10))

        def epoch(workers: int, threads: int) -> None:
            torch.set_num_threads(threads)
            store = ImageStore(records, transform.load_size, cache="none", training=True)
            batches = make_loader(store, transform, args.batch_size, train=True, workers=workers)
            for batch in batches:
                loss = torch.nn.functional.cross_entropy(network(view(batch.images)), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        own = choose_workers(None, compute.device, False), torch.get_num_threads()
        ways = {own} | {(w, t) for w in range(cores + 1) for t in args.threads or [cores]}
        variants = {f"{w} + {t}": lambda w=w, t=t: epoch(w, t) for w, t in sorted(ways)}
        timings = time_interleaved(variants, args.repeats)
        timings.on_cpu = False  # the clock decides
    name = f"{own[0]} + {own[1]}"
    result = {
        "benchmark": "loader_threads",
        "cores": cores,
        "own": name,
        "images_per_second": {n: round(args.images / s, 1) for n, s in timings.medians().items()},
        "times_own": {n: timings.ratio(name, n) for n in variants if n != name},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
