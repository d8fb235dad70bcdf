"""Measure exported files against PyTorch, and a first prediction from a cold start; prints JSON.

    python benchmarks/export.py --model runs/gta [--batch 1 8] [--repeats 15] [--threads 1]

Images a second of PyTorch, onnxruntime and pt2 on equal inputs, interleaved, medians. The cold
start is `gta predict` of one image, a process of its own: seconds of CPU time, of user and system.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from interleaved import time_interleaved
from PIL import Image

from gtacli.config.export import ExportConfig
from gtacli.models.exporters.card import KEY, read_export_card
from gtacli.models.exporters.graph import ExportGraph
from gtacli.models.loading import load_model
from gtacli.runtime.devices import choose_compute
from gtacli.scenes.trials import draw_trial
from gtacli.trained.export import export

GTA = "import sys; from gtacli.cli import main; sys.exit(main(sys.argv[1:]))"


def ways(spec: str, folder: Path, threads: int) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return each way of running a model, of normalized images, and the size of these."""
    found: dict[str, Callable[[torch.Tensor], object]] = {}
    for name in ("onnx", "pt2"):
        export(ExportConfig(format=name, overwrite=True), spec, folder / f"model.{name}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    card = read_export_card(session.get_modelmeta().custom_metadata_map[KEY], "model.onnx")
    network = ExportGraph(load_model(spec), card)
    module = torch.export.load(folder / "model.pt2").module()
    found["pytorch"] = network
    found["onnxruntime"] = lambda images: session.run(None, {"images": images.numpy()})
    found["pt2"] = module
    return found, card.image_size


def cold(model: str, image: Path, runs: int) -> float:
    """Return the median CPU seconds of a prediction by a process of its own."""
    seconds = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = [sys.executable, "-c", GTA, "predict", str(image), "-m", model, "-q"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(seconds)


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Return all measurements."""
    torch.set_num_threads(args.threads)
    result: dict[str, object] = {"benchmark": "export", "model": args.model}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variants, size = ways(args.model, folder, args.threads)
        for batch in args.batch:
            images = torch.from_numpy(
                np.random.default_rng(0).normal(size=(batch, 3, *size)).astype(np.float32)
            )
            calls = {key: partial(run, images) for key, run in variants.items()}
            with torch.no_grad():
                timings = time_interleaved(calls, args.repeats, choose_compute("cpu", "fp32"))
            medians = timings.medians()
            result[f"batch {batch}"] = {
                "images_per_second": {k: round(batch / v, 1) for k, v in medians.items()},
                "cpu_time_of_pytorch": {k: timings.ratio(k, "pytorch") for k in variants},
            }
        if args.cold:
            Image.fromarray(draw_trial(0, 480)[0]).save(folder / "image.jpg", quality=95)
            specs = {"onnx": str(folder / "model.onnx"), "pytorch": args.model}
            result["cold_start_cpu_s"] = {
                key: round(cold(spec, folder / "image.jpg", args.cold), 2)
                for key, spec in specs.items()
            }
    return {**result, "repeats": args.repeats, "threads": args.threads}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cold", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    print(json.dumps(measure(parser.parse_args())))
