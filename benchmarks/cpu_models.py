"""Measure what gta's commands cost per image on one CPU core, for several architectures.

OMP_NUM_THREADS=1 python benchmarks/cpu_models.py --images PHOTOS [--models NAME ...]

PHOTOS is a folder of photographs. The weights are random, which changes no cost. Each command runs
on few and on more images; the difference in CPU time of the process, divided by that in images,
leaves out the start. Prints one JSON line per model: milliseconds of CPU time per image.
`finetune` is one image in one epoch, with the default options but for what is decided once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from safetensors.torch import save_file

from gtacli.cli import main as gta

CLASSES = 4
MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--more", type=int, default=32)
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    a = parser.parse_args()
    torch.set_num_threads(1)
    photographs = sorted(p for p in a.images.rglob("*.jpg"))[: a.more]
    for name in a.models:
        with TemporaryDirectory() as folder:
            place = Path(folder)
            sets = {
                count: classes(place / f"{count}", photographs[:count]) for count in (a.few, a.more)
            }
            model = random_run(name, place / "model")
            for precision in a.precision:
                costs = {
                    command: cost(command, words, sets, place, precision)
                    for command, words in commands(model).items()
                }
                print(json.dumps({"model": name, "precision": precision, **costs}), flush=True)


def commands(model: str) -> dict[str, list[str]]:
    """Return the words of each command, without images and output."""
    return {
        "predict": ["predict", "-m", model],
        "attn-maps": ["attn-maps", "-m", model],
        "segment": [
            "segment", "-m", model, "--layer", "-1", "--tau", "0.2", "--refine", "bilateral",
        ],
        "finetune": [
            "finetune", "-m", model, "--lam", "0.1", "--every", "2", "--head-init", "random",
            "--hold-out", "none", "--no-linear-probe", "--no-drift", "--batch-size", "8",
            "--epochs", "2", "--workers", "0", "--overwrite",
        ],
    }  # fmt: skip


def cost(
    command: str, words: list[str], sets: dict[int, Path], place: Path, precision: str
) -> float:
    """Return milliseconds of CPU time per image (and epoch)."""
    seconds = {}
    for count, images in sets.items():
        data = ["--data", str(images)] if command == "finetune" else [str(images)]
        out = [] if command == "predict" else ["-o", str(place / "out"), "--overwrite"]
        started = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            status = gta([*words, *data, *out, "-q", "--device", "cpu", "--precision", precision])
        if status:
            raise SystemExit(f"{command} ended with status {status}")
        seconds[count] = time.process_time() - started
    (few, before), (more, after) = sorted(seconds.items())
    epochs = 2 if command == "finetune" else 1
    return round(1000 * (after - before) / (more - few) / epochs, 1)


def classes(folder: Path, photographs: list[Path]) -> Path:
    """Copy photographs into class folders."""
    for i, file in enumerate(photographs):
        (folder / f"class{i % CLASSES}").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / f"class{i % CLASSES}" / f"{i}.jpg")
    return folder


def random_run(name: str, folder: Path) -> str:
    """Write a model folder with random weights and a classifier."""
    model = timm.create_model(name, num_classes=CLASSES)
    folder.mkdir()
    header = {"architecture": name, "num_classes": str(CLASSES)}
    save_file(model.state_dict(), folder / "model.safetensors", header)
    return str(folder)


main()
