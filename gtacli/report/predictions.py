"""Predictions of the runs' models on their test images, else on those held out of training.

They are cached in the run folder (predictions.json), so the next report does not run the model.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from gtacli.data.base import ImageDataset, Record
from gtacli.data.loader import make_loader
from gtacli.data.store import ImageStore
from gtacli.errors import GtaError
from gtacli.images.depth import reading
from gtacli.models.loading import LoadedModel
from gtacli.report.attention import eval_transform, prepare_network
from gtacli.report.run_folders import ReportRun
from gtacli.report.run_schema import CachedPredictions, SplitRecord, check_content, check_object
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.devices import Compute, choose_workers
from gtacli.runtime.ownership import owned
from gtacli.runtime.regular import open_regular
from gtacli.runtime.run_files import PREDICTIONS_FILE, WEIGHTS_FILE
from gtacli.runtime.strict_json import read_json, reason_of

log = logging.getLogger(__name__)

Predictions = dict[str, tuple[int, float]]
"""Class index and probability by image key."""


class Confusions(NamedTuple):
    """The true and the predicted classes of a run's images.

    Attributes:
        classes: names.
        counts: [true class, predicted class, number of images] for every pair that occurs.
        images: which they are, in words.
    """

    classes: tuple[str, ...]
    counts: Sequence[Sequence[int]]
    images: str


IMAGES_OF = {"test": "test images", "val": "held-out images"}


def measured_part(run: ReportRun) -> Literal["test", "val"] | None:
    """Return the images that measured the run's weights; None if all of them were learned."""
    summary = run.summary or {}
    if summary.get("test_top1") is not None:
        return "test"
    if summary.get("val_top1") is not None and not run.config.get("refit"):
        return "val"
    return None


def find_images_of(
    run: ReportRun, dataset: ImageDataset, part: Literal["test", "val"]
) -> tuple[Record, ...]:
    """Return the images that the run was tested or validated on, by default the dataset's split.

    The keys in split.json select images of the dataset; they are never paths.

    Raises GtaError if they cannot be read, or if the dataset no longer has one of them.
    """
    file = run.path / "split.json"
    try:
        split = check_object(read_json(file), SplitRecord, file)
    except FileNotFoundError:
        split = {}
    except (OSError, ValueError) as error:
        raise GtaError(f"{file} cannot be read ({reason_of(error)})") from error
    keys = split.get(part)
    if keys is None:
        return dataset[part]
    records = {record.key: record for _, record in dataset.records()}
    missing = [key for key in keys if key not in records]
    if missing:
        kind = IMAGES_OF[part]
        raise GtaError(f"the data lacks {len(missing)} of its {kind}, such as {missing[0]}")
    return tuple(records[key] for key in keys)


class Predictor:
    """A runner of models on test images; models with equal input share the decoded pixels.

    Args:
        compute: the device and the precision.
        own_precision: run each model at the precision of its run, where the device has it: close
            decisions differ between them.
    """

    def __init__(
        self, compute: Compute, batch_size: int, workers: int | None, own_precision: bool = False
    ) -> None:
        self.compute, self.batch_size, self.workers = compute, batch_size, workers
        self.own_precision = own_precision
        self._store: ImageStore | None = None

    def compute_of(self, run: ReportRun) -> Compute:
        """Return the device, and the precision for a run."""
        if not self.own_precision:
            return self.compute
        return self.compute.at(run.record.get("precision", run.config.get("precision")))

    def predict(
        self,
        model: LoadedModel,
        records: Sequence[Record],
        advance: Callable[[int], object],
        compute: Compute,
    ) -> Predictions:
        """Return the most probable class of each readable image."""
        transform = eval_transform(model)
        store = self._open_store(tuple(records), transform.load_size, model.interpolation)
        network = prepare_network(model, compute)
        as_input = model.view(compute.device)
        predictions: Predictions = {}
        workers = choose_workers(self.workers, compute.device, store.cached)
        size = 2 * self.batch_size
        for batch in make_loader(store, transform, size, train=False, workers=workers):
            if len(batch.images):
                images = batch.images.to(compute.device)
                with torch.inference_mode(), compute.autocast():
                    best = network(as_input(images)).float().softmax(-1).max(-1)
                keys = [store.records[i].key for i in batch.indices.tolist()]
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                predictions |= dict(zip(keys, pairs, strict=True))
            advance(len(batch.images))
        return predictions

    def _open_store(
        self, records: tuple[Record, ...], cover: tuple[int, int], interpolation: str
    ) -> ImageStore:
        store = self._store
        if store is None or (store.records, store.cover, store.interpolation) != (
            records, cover, interpolation,
        ):  # fmt: skip
            store = self._store = ImageStore(records, cover, interpolation=interpolation)
        return store


def hash_inputs(run: ReportRun, fingerprint: str, precision: str) -> str:
    """Hash the run's weights, the dataset's fingerprint, and how images are read and computed."""
    digest = hashlib.sha256(fingerprint.encode() + reading().encode())
    if precision != "fp32":
        digest.update(precision.encode())
    with open_regular(run.path / WEIGHTS_FILE) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_predictions(
    run: ReportRun, digest: str, records: Sequence[Record], classes: int
) -> Predictions | None:
    """Return the cached predictions; None if they are from other weights, images or classes."""
    file = run.path / PREDICTIONS_FILE
    try:
        content = check_content(read_json(file), CachedPredictions, str(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, GtaError) as error:
        log.debug("%s: predicting again: %s", file, error)
        return None
    valid = content.of == digest and set(content.top1) <= {r.key for r in records}
    known = all(number < classes for number, _ in content.top1.values())
    return content.top1 if valid and known else None


def save_predictions(run: ReportRun, digest: str, predictions: Predictions) -> None:
    """Cache predictions in the run folder; skip one that is not writable, or is at work."""
    content = {"of": digest, "top1": {k: [c, round(p, 4)] for k, (c, p) in predictions.items()}}
    text = json.dumps(content, indent=0) + "\n"
    try:
        with owned(run.path, "report", patience=0):
            write_atomic(
                run.path / PREDICTIONS_FILE, lambda p: p.write_text(text, encoding="utf-8")
            )
    except GtaError as error:
        log.debug("%s", error)


def count_confusions(records: Sequence[Record], predictions: Predictions) -> list[list[int]]:
    """Return [true class, predicted class, number of images] for every pair that occurs."""
    counts: dict[tuple[int, int], int] = {}
    for record in records:
        if record.key in predictions:
            pair = (record.label, predictions[record.key][0])
            counts[pair] = counts.get(pair, 0) + 1
    return [[*pair, count] for pair, count in sorted(counts.items())]


def worst_mistakes(
    records: Sequence[Record], by_run: Sequence[Mapping[str, tuple[int, float]]], count: int
) -> list[Record]:
    """Return the images with the highest total probability of wrong classes, highest first."""

    def wrong_probability(record: Record) -> float:
        own = [predictions[record.key] for predictions in by_run if record.key in predictions]
        return sum(p for label, p in own if label != record.label)

    wrong = [record for record in records if wrong_probability(record) > 0]
    return sorted(wrong, key=lambda record: (-wrong_probability(record), record.key))[:count]
