"""The metrics of the runs of `gta demo`: accuracy, attention on the object, background gap."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gtacli.data.base import ImageDataset
from gtacli.data.inputs import iter_dataset_images
from gtacli.data.spec import load_dataset
from gtacli.demo.runs import DemoRun
from gtacli.models.loading import LoadedModel, load_model
from gtacli.probing.attention import AttentionProbe
from gtacli.probing.backgrounds.metrics import VariantPredictions, background_metrics
from gtacli.probing.backgrounds.probe import BackgroundProbe
from gtacli.probing.backgrounds.sources import MaskedImageVariants
from gtacli.probing.backgrounds.variants import ImageScenes
from gtacli.probing.class_map import match_outputs
from gtacli.runtime.devices import Compute

METRICS = ("test_top1", "attention_inside", "attention_drift", "bg_gap")
"""Keys of a run's metrics, see `measure`."""


def measure(
    runs: Sequence[DemoRun], summaries: Sequence[dict[str, Any]], compute: Compute
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure the source and each run on the demo's test images.

    Background variants combine objects of test images with backgrounds of training images, the
    only ones whose scenery depends on the class.

    Returns:
        The source's `attention_inside` (last block, mean over heads) and the object's `area`, and
        for each run `test_top1`, `attention_inside`, `attention_drift` from the source (all
        blocks), `accuracy` by variant and `bg_gap`.
    """
    demo = load_dataset("demo")
    models = [load_model(spec) for spec in ("demo", *(str(run.path) for run in runs))]
    probe = AttentionProbe(models, "all", "data", compute)
    for _ in probe.run(iter_dataset_images(demo, "test")):
        pass
    source, *attention = (_attention(result) for result in probe.results())
    variants = [background_metrics(answers) for answers in _answers(models[1:], demo, compute)]
    rows = [
        {
            "method": run.method,
            "seed": run.seed,
            "run": str(run.path),
            "test_top1": summary["test_top1"],
            **own,
            "accuracy": {
                name: shown["top1"] for name, shown in (variant["variants"] or {}).items()
            },
            "bg_gap": variant["bg_gap"],
        }
        for run, summary, own, variant in zip(runs, summaries, attention, variants, strict=True)
    ]
    return {"attention_inside": source["attention_inside"], "area": source["area"]}, rows


def _answers(
    models: Sequence[LoadedModel], demo: ImageDataset, compute: Compute
) -> list[VariantPredictions]:
    scenes, grounds = (
        ImageScenes([*iter_dataset_images(demo, split)]) for split in ("test", "train")
    )
    probe = BackgroundProbe(
        models, [match_outputs(model, demo.classes) for model in models], compute
    )
    for _ in probe.run(MaskedImageVariants(scenes, demo.classes, grounds), batch_size=64):
        pass
    return probe.predictions


def _attention(result: Mapping[str, Any]) -> dict[str, Any]:
    layers = result["layers"]
    drift = [value for layer in layers for value in layer["drift"] or ()]
    return {
        "attention_inside": statistics.fmean(layers[-1]["inside"]),
        "area": result["area"],
        "attention_drift": statistics.fmean(drift) if drift else 0.0,
    }


def mean_and_sd(values: Iterable[float]) -> dict[str, float | None]:
    """Return the mean and the sample standard deviation, which is None for a single value."""
    known = list(values)
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "sd": deviation}


def compare(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return each metric's mean and deviation over the seeds, by method and of the differences.

    A difference is GTA's metric minus that of plain fine-tuning with the same seed.
    """
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    methods = {
        method: {name: mean_and_sd(row[name] for row in own) for name in METRICS}
        for method, own in by_method.items()
    }
    pairs = list(zip(by_method["plain"], by_method["gta"], strict=True))
    difference = {
        name: mean_and_sd(gta[name] - plain[name] for plain, gta in pairs) for name in METRICS
    }
    return {"methods": methods, "difference": difference}


def first_pair(runs: Sequence[DemoRun]) -> tuple[Path, Path]:
    """Return the folders of the first seed's plain and GTA runs."""
    first = {run.method: run.path for run in reversed(runs)}
    return first["plain"], first["gta"]
