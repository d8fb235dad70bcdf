"""Measure the report of many runs: size, creation time, and response times in a browser.

python benchmarks/report.py [--runs 20] [--images 200] [--model SPEC]

The runs are copies of one model (by default ViT-Tiny/16 with random weights at 224 px); the images
are the demo's. `times_forward` is the creation time divided by the time of the bare forward passes
in the same process. With Chromium and playwright: milliseconds from an input to the end of the next
frame, medians of ten. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import time
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from gtacli.config.report import ReportConfig
from gtacli.data import load_dataset
from gtacli.images.decode import decode
from gtacli.models import load_model
from gtacli.models.metadata import model_metadata
from gtacli.report.writer import write_report

INPUTS = {
    "slider": "const s = document.querySelector('.block'); s.value = i % (+s.max + 1);"
    "s.dispatchEvent(new Event('input'))",
    "heads": "const s = document.querySelector('.heads'); s.selectedIndex = i % s.options.length;"
    "s.dispatchEvent(new Event('change'))",
    "click": "const f = document.querySelector('.row .frame'), b = f.getBoundingClientRect();"
    "f.dispatchEvent(new MouseEvent('click', {clientX: b.left + 9 * i, clientY: b.top + 9}))",
}
MEASURE = """async () => {
  const took = [];
  for (let i = 0; i < 10; i++) {
    const start = performance.now();
    { %s }
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    took.push(performance.now() - start);
  }
  return took.sort((a, b) => a - b)[5];
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--model", default="vit_tiny_patch16_224@none")
    a = parser.parse_args()
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as name:
        root = Path(name)
        images = write_images(root, a.images)
        folders = write_runs(root, a.runs, a.model)
        config = ReportConfig(out=root / "report.html", images=images, device="cpu", workers=0)
        report = write_report(config, folders, no_progress, BytesIO())
        bare = time_forward(a.model, images) * (a.runs + 1)
        result: dict[str, Any] = {
            "runs": a.runs,
            "images": report["images"],
            "megabytes": round(report["bytes"] / 2**20, 2),
            "seconds": report["seconds"],
            "times_forward": round(report["seconds"] / bare, 2),
            **measure_in_browser(config.out),
        }
    print(json.dumps(result))


def write_images(root: Path, count: int) -> list[str]:
    """Write test images of the demo as JPEG files."""
    (root / "images").mkdir()
    files = []
    for record in load_dataset("demo")["test"][:count]:
        file = root / "images" / f"{len(files)}.jpg"
        decode(record.source).resize((256, 256), Image.Resampling.BICUBIC).save(file)
        files.append(str(file))
    return files


def write_runs(root: Path, count: int, spec: str) -> list[str]:
    """Write run folders of one model."""
    model = load_model(spec, num_classes=10)
    classes = tuple(map(str, range(10)))
    weights = root / "model.safetensors"
    save_file(model.model.state_dict(), weights, model_metadata(model, classes))
    folders = []
    for i in range(count):
        folder = root / f"run-{i}"
        folder.mkdir()
        shutil.copyfile(weights, folder / "model.safetensors")
        config = {
            "model": str(root / "run-0"),
            "seed": i % 5,
            "regularizer": {},
            "lr": 0.1 * (i // 5),
        }
        record = {"command": "finetune", "config": config}
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "summary.json").write_text(json.dumps({"attention_drift": i}))
        rows = ({"epoch": e, "train_loss": 3 / (e + 1), "lr": 1e-4} for e in range(100))
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        folders.append(str(folder))
    return folders


def time_forward(spec: str, images: list[str]) -> float:
    """Return the seconds of one model's forward passes on images in memory."""
    model = load_model(spec)
    batch = torch.zeros(8, 3, *model.image_size)
    seconds = []
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            model.model(batch)
            seconds.append((time.perf_counter() - start) / 8)
    return statistics.median(seconds) * len(images)


def measure_in_browser(file: Path) -> dict[str, Any]:
    """Measure loading and response times in milliseconds."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        binary = None
    if binary is None:
        return {"browser": None}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(file.as_uri())
        loaded = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        times = {"load_ms": round(page.evaluate(loaded))}
        page.evaluate("document.querySelector('.rows').scrollIntoView()")
        page.locator(".row canvas").first.wait_for()
        for name, script in INPUTS.items():
            times[f"{name}_ms"] = round(page.evaluate(MEASURE % script), 1)
        browser.close()
    return times


@contextmanager
def no_progress(label: str, total: int | None) -> Any:
    """Return a context of `advance` that shows nothing."""
    yield lambda steps=1, note=None: None


if __name__ == "__main__":
    main()
