"""The metrics of the runs of `gta demo`: accuracy, attention on the object, background gap."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

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
from gtacli.runtime.results import Doc

METRICS = ("test_top1", "attention_inside", "attention_drift", "bg_gap")
"""Keys of a run's metrics, see `DemoRow`."""


class DemoRow(TypedDict):
    """One run of `gta demo`, measured on the demo's test images."""

    method: Annotated[str, Doc("plain or gta")]
    seed: Annotated[int, Doc("seed of the run")]
    run: Annotated[str | None, Doc("folder of the run; null in a dry run")]
    test_top1: Annotated[float, Doc("top-1 accuracy")]
    attention_inside: Annotated[
        float, Doc("share of the CLS token's attention on the object, last block, mean over heads")
    ]
    area: Annotated[float, Doc("share of the image that the object covers")]
    attention_drift: Annotated[
        float, Doc("squared distance of the attention logits from the source's, all blocks")
    ]
    accuracy: Annotated[dict[str, float | None], Doc("top-1 by variant of the background")]
    bg_gap: Annotated[
        float | None,
        Doc("accuracy with a background of the same class minus that with one of any class"),
    ]


class DemoSourceAttention(TypedDict):
    """The source of `gta demo` on the same images."""

    attention_inside: Annotated[float, Doc("as in DemoRow")]
    area: Annotated[float, Doc("as in DemoRow")]


class MeanAndDeviation(TypedDict):
    """A metric over the seeds of `gta demo`."""

    mean: Annotated[float, Doc("mean")]
    sd: Annotated[float | None, Doc("sample standard deviation; null for one seed")]


class DemoComparison(TypedDict):
    """The metrics of `gta demo` over its seeds, by their names in DemoRow."""

    methods: Annotated[dict[str, dict[str, MeanAndDeviation]], Doc("by method")]
    difference: Annotated[dict[str, MeanAndDeviation], Doc("gta minus plain, seed by seed")]


class DemoSummary(DemoComparison):
    """The result of `gta demo`: the field `summary` of its last line."""

    source: Annotated[DemoSourceAttention, Doc("the source's attention")]
    sheet: Annotated[str | None, Doc("picture of the attention; null in a dry run")]
    report: Annotated[str | None, Doc("page with tables, curves and attention")]
    run: Annotated[str | None, Doc("folder of everything")]
    seconds: Annotated[float, Doc("run time", "s")]


def measure(
    runs: Sequence[DemoRun], summaries: Sequence[dict[str, Any]], compute: Compute
) -> tuple[DemoSourceAttention, list[DemoRow]]:
    """Measure the source and each run on the demo's test images.

    Background variants combine objects of test images with backgrounds of training images, the
    only ones whose scenery depends on the class.
    """
    demo = load_dataset("demo")
    models = [load_model(spec) for spec in ("demo", *(str(run.path) for run in runs))]
    probe = AttentionProbe(models, "all", "data", compute)
    for _ in probe.run(iter_dataset_images(demo, "test")):
        pass
    source, *attention = (_attention(result) for result in probe.results())
    variants = [background_metrics(answers) for answers in _answers(models[1:], demo, compute)]
    rows: list[DemoRow] = [
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


class _MeasuredAttention(DemoSourceAttention):
    attention_drift: float


def _attention(result: Mapping[str, Any]) -> _MeasuredAttention:
    layers = result["layers"]
    drift = [value for layer in layers for value in layer["drift"] or ()]
    return {
        "attention_inside": statistics.fmean(layers[-1]["inside"]),
        "area": result["area"],
        "attention_drift": statistics.fmean(drift) if drift else 0.0,
    }


def mean_and_sd(values: Iterable[float]) -> MeanAndDeviation:
    """Return the mean and the sample standard deviation, which is None for a single value."""
    known = list(values)
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "sd": deviation}


def compare(rows: Sequence[DemoRow]) -> DemoComparison:
    """Return each metric's mean and deviation over the seeds, by method and of the differences.

    A difference is GTA's metric minus that of plain fine-tuning with the same seed.
    """
    by_method: dict[str, list[dict[str, Any]]] = {}  # a metric's name is a value here
    for row in rows:
        by_method.setdefault(row["method"], []).append(cast(dict[str, Any], row))
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
