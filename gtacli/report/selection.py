"""The images and the models that a report shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from gtacli.config.common import ImageSize
from gtacli.config.report import ReportConfig
from gtacli.data.base import ImageDataset, Record
from gtacli.data.inputs import InputImage
from gtacli.data.unlabeled import has_labels
from gtacli.images.packed import PackedImage
from gtacli.models.loading import LoadedModel, load_model
from gtacli.report.evaluation import RunEvaluator, RunPredictions
from gtacli.report.predictions import worst_mistakes
from gtacli.report.run_folders import ReportRun


class SelectedImage(NamedTuple):
    """An image to show.

    Attributes:
        name: its key in the dataset, or its path.
        source: its file, or an image without a file of its own.
        label: its class, if known.
        mistake: whether it is shown as one of the worst mistakes.
    """

    name: str
    source: Path | PackedImage
    label: str | None
    mistake: bool = False


class SelectedModel(NamedTuple):
    """A model to show: its label, the index of its run (None: a source) and how to load it."""

    label: str
    run: int | None
    load: Callable[[], LoadedModel]


def select_images(
    config: ReportConfig,
    runs: Sequence[ReportRun],
    evaluator: RunEvaluator,
    results: Sequence[RunPredictions],
    named: Sequence[InputImage],
) -> list[SelectedImage]:
    """Return the named images, by default one of every class, and the worst mistakes."""
    images = [SelectedImage(image.path, image.source, None) for image in named]
    if not named:
        found = results[0][:2] if results else _images_without_test(runs, evaluator)
        if found is not None:
            dataset, records = found
            shown = _thin_out(_one_per_class(dataset, records), config.max_images)
            images += [_image_of(record, dataset) for record in shown]
    if results and config.mistakes:
        dataset, records = results[0][:2]
        by_run = [result.predictions for result in results if result.dataset is dataset]
        worst = worst_mistakes(records, by_run, config.mistakes)
        images += [_image_of(record, dataset, mistake=True) for record in worst]
    return images


def _images_without_test(
    runs: Sequence[ReportRun], evaluator: RunEvaluator
) -> tuple[ImageDataset, tuple[Record, ...]] | None:
    """Return images of the first run with a readable dataset."""
    for run in runs:
        loaded = evaluator.load_dataset(run)
        if loaded is not None:
            return loaded[0], loaded[0]["test"] or loaded[0]["val"] or loaded[0]["train"]
    return None


def _one_per_class(dataset: ImageDataset, records: Sequence[Record]) -> Sequence[Record]:
    """Return the first image of each class; all images if there are no labels."""
    if not has_labels(dataset):
        return records
    first = {label: record for record in reversed(records) for label in record.every_label}
    return list(dict.fromkeys(first[label] for label in sorted(first)))


def _image_of(record: Record, dataset: ImageDataset, mistake: bool = False) -> SelectedImage:
    return SelectedImage(record.key, record.source, dataset.describe_label(record) or None, mistake)


def _thin_out(records: Sequence[Record], count: int) -> list[Record]:
    """Return at most `count` records, evenly spaced."""
    if len(records) <= count:
        return [*records]
    return [records[i * len(records) // count] for i in range(count)]


def select_models(
    runs: Sequence[ReportRun], labels: Sequence[str], order: Sequence[int]
) -> list[SelectedModel]:
    """Return the sources of the runs, each once, and the runs' models in the given order."""
    own = [
        SelectedModel(labels[number], number, partial(load_model, str(runs[number].path)))
        for number in order
    ]
    return [*_select_sources(runs), *own]


def _select_sources(runs: Sequence[ReportRun]) -> Iterator[SelectedModel]:
    """Yield the models that the runs started from, without random weights."""
    sources: dict[tuple[Any, ...], ReportRun] = {}
    for run in runs:
        config, untrained = run.config, run.command == "pretrain"
        if untrained and not config.get("init"):
            continue
        if config.get("source") or config.get("model"):
            sizes = map(config.get, ("source_size", "test_size", "image_size"))
            size = next(filter(None, sizes), None)
            pixels = None if size is None else TypeAdapter(ImageSize).validate_python(size)
            is_model = config.get("source") in (None, config.get("model"))
            init = config.get("init") if is_model else None
            spec = run.setting("source") or run.setting("model")
            sources.setdefault((spec, pixels, init, untrained, config.get("patch_size")), run)
    for (spec, pixels, init, untrained, patch_size), run in sources.items():
        label = "source" if len(sources) == 1 else f"source {Path(init or spec).name}"
        partial_weights = bool(run.config.get("partial_weights")) or None
        how = {"init": init, "untrained": untrained, "patch_size": patch_size}
        load = partial(load_model, spec, 0, pixels, partial_weights, **how)
        yield SelectedModel(label, None, load)
