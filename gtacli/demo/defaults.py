"""Defaults of `gta attention-map`: demo images, and the newest run on the demo or its source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gtacli.data.base import ImageDataset
from gtacli.data.inputs import InputImage, iter_dataset_images
from gtacli.data.spec import load_dataset
from gtacli.runtime.run_files import WEIGHTS_FILE
from gtacli.runtime.strict_json import read_json

RUNS = Path("runs")


def demo_spec() -> str:
    """Return the newest run folder below runs/ that was trained on the demo, or "demo"."""
    runs = [path for path in RUNS.glob("*/run.json") if _is_demo_run(path)]
    newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    return "demo" if newest is None else str(newest.parent)


def _is_demo_run(record: Path) -> bool:
    try:
        data = read_json(record)["config"]["data"]
        return data in (None, "demo") and (record.parent / WEIGHTS_FILE).is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False  # a folder of another tool, or a run that was stopped at its start


def demo_images() -> Iterator[InputImage]:
    """Return the first test image of each class of the demo."""
    demo = load_dataset("demo")
    first = {record.label: record for record in reversed(demo["test"])}
    chosen = tuple(first[label] for label in sorted(first))
    return iter_dataset_images(ImageDataset(demo.name, demo.classes, {"test": chosen}))
