"""What `gta attention-map` draws when nothing is named: the demo's test images, one of each class,
seen by the newest run on the demo or by its source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gtacli.data.base import ImageDataset
from gtacli.data.inputs import InputImage, iter_dataset_images
from gtacli.data.spec import load_dataset
from gtacli.runtime.run_files import WEIGHTS_FILE

RUNS = Path("runs")


def demo_spec() -> str:
    """The newest run folder below runs/ that was trained on the demo, else "demo"."""
    runs = [path for path in RUNS.glob("*/run.json") if _on_demo(path)]
    newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    return "demo" if newest is None else str(newest.parent)


def _on_demo(record: Path) -> bool:
    try:
        of = json.loads(record.read_text(encoding="utf-8"))
        return of["config"]["data"] in (None, "demo") and (record.parent / WEIGHTS_FILE).is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False  # another tool's folder, or a run that was stopped while it began


def demo_images() -> Iterator[InputImage]:
    """The first test image of each class."""
    demo = load_dataset("demo")
    first = {record.label: record for record in reversed(demo["test"])}
    chosen = tuple(first[label] for label in sorted(first))
    return iter_dataset_images(ImageDataset(demo.name, demo.classes, {"test": chosen}))
