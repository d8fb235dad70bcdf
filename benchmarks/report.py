"""The report of many runs: size of the page, making it, and how fast it answers in a browser.

python benchmarks/report.py [--runs 20] [--images 200] [--model SPEC]

The runs are one network (ViT-Tiny/16 with random weights at 224 px unless named) under several
names, the images the demo's. `times_forward` compares making the page with nothing but the bare
forward passes that it needs, in the same process. With Chromium and playwright: milliseconds from
an input to the end of the next frame, medians of ten. Prints one JSON line.
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
        images = photographs(root, a.images)
        folders = runs(root, a.runs, a.model)
        config = ReportConfig(out=root / "report.html", images=images, device="cpu", workers=0)
        told = write_report(config, folders, silent, BytesIO())
        bare = forward(a.model, images) * (a.runs + 1)
        result: dict[str, Any] = {
            "runs": a.runs,
            "images": told["images"],
            "megabytes": round(told["bytes"] / 2**20, 2),
            "seconds": told["seconds"],
            "times_forward": round(told["seconds"] / bare, 2),
            **in_browser(config.out),
        }
    print(json.dumps(result))


def photographs(root: Path, count: int) -> list[str]:
    (root / "images").mkdir()
    files = []
    for record in load_dataset("demo")["test"][:count]:
        file = root / "images" / f"{len(files)}.jpg"
        decode(record.path).resize((256, 256), Image.Resampling.BICUBIC).save(file)
        files.append(str(file))
    return files


def runs(root: Path, count: int, spec: str) -> list[str]:
    model = load_model(spec, num_classes=10)
    classes = tuple(map(str, range(10)))
    weights = root / "model.safetensors"
    save_file(model.model.state_dict(), weights, model_metadata(model, classes))
    found = []
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
        found.append(str(folder))
    return found


def forward(spec: str, images: list[str]) -> float:
    """Seconds of one network's forward passes on images in memory."""
    model = load_model(spec)
    batch = torch.zeros(8, 3, *model.image_size)
    took = []
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            model.model(batch)
            took.append((time.perf_counter() - start) / 8)
    return statistics.median(took) * len(images)


def in_browser(file: Path) -> dict[str, Any]:
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        binary = None
    if binary is None:
        return {"browser": None}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(file.as_uri())
        loaded = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        found = {"load_ms": round(page.evaluate(loaded))}
        page.evaluate("document.querySelector('.rows').scrollIntoView()")
        page.locator(".row canvas").first.wait_for()
        for name, script in INPUTS.items():
            found[f"{name}_ms"] = round(page.evaluate(MEASURE % script), 1)
        browser.close()
    return found


@contextmanager
def silent(label: str, total: int | None) -> Any:
    yield lambda steps=1, note=None: None


if __name__ == "__main__":
    main()
