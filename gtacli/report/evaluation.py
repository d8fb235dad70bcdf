"""Evaluation of the runs on their own test images, else on those held out of training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

from gtacli.data.base import ImageDataset, Record
from gtacli.data.learnable import without_unseen
from gtacli.data.spec import load_dataset
from gtacli.data.unlabeled import load_images
from gtacli.errors import GtaError
from gtacli.images.depth import reading_by_default
from gtacli.models.loading import load_folder
from gtacli.report.predictions import (
    IMAGES_OF,
    Predictions,
    Predictor,
    find_images_of,
    hash_inputs,
    load_predictions,
    measured_part,
    save_predictions,
)
from gtacli.report.run_folders import ReportRun
from gtacli.runtime.devices import Compute

log = logging.getLogger(__name__)

ReportProgress = Callable[[str, int | None], AbstractContextManager[Callable[..., None]]]
"""A function (label, total) that returns a context of `advance(steps=1)`."""
TOLERANCE = 0.005
"""Accepted difference in accuracy: another device or batch size may flip close decisions."""


class Notes(list[str]):
    """The missing content and its reasons, listed on the page and logged at once."""

    def add(self, text: str) -> None:
        if text not in self:
            self.append(text)
            log.warning("%s", text)


class RunPredictions(NamedTuple):
    """The images that a run was tested or validated on, and its predictions on them.

    Attributes:
        images: which they are, in words.
    """

    dataset: ImageDataset
    records: tuple[Record, ...]
    predictions: Predictions
    images: str


class RunEvaluator:
    """An evaluator of runs that reads each dataset once; a failure becomes a note."""

    def __init__(self, predictor: Predictor, notes: Notes, progress: ReportProgress) -> None:
        self.predictor, self.notes, self.progress = predictor, notes, progress
        self._datasets: dict[tuple[str, bool, bool], tuple[ImageDataset, str] | None] = {}

    def load_dataset(self, run: ReportRun) -> tuple[ImageDataset, str] | None:
        """Return the run's dataset and its fingerprint; None if it cannot be read."""
        spec = run.setting("data")
        if not isinstance(spec, str):
            self.notes.add(f"{run.name}: its run.json does not name its dataset")
            return None
        if run.config.get("epoch_images") is not None:
            self.notes.add(
                f"{run.name}: its images are a stream, of which none is shown; name some"
            )
            return None
        several = bool(run.config.get("multi_label"))
        unlabeled = run.command == "pretrain"
        key = (spec, several, unlabeled)
        if key not in self._datasets:
            self._datasets[key] = None
            try:
                read = load_images(spec) if unlabeled else load_dataset(spec, several)
                dataset = without_unseen(read, quiet=True)
                self._datasets[key] = dataset, dataset.fingerprint()
            except GtaError as error:
                self.notes.add(f"the dataset {spec} cannot be read: {error}")
        loaded = self._datasets[key]
        recorded = run.section("data").get("fingerprint")
        if loaded is not None and recorded not in (None, loaded[1]):
            self.notes.add(f"the dataset {spec} has changed since {run.name} was trained")
        return loaded

    def evaluate(self, run: ReportRun, label: str) -> RunPredictions | None:
        """Return a run's predictions; None for one without a measure: incomplete, pre-training."""
        part = measured_part(run)
        if part is None or not run.has_weights:
            return None
        loaded = self.load_dataset(run)
        if loaded is None:
            return None
        dataset, fingerprint = loaded
        deep = run.config.get("bands"), run.config.get("value_range")
        try:
            records = find_images_of(run, dataset, part)
            compute = self.predictor.compute_of(run)
            with reading_by_default(*deep):
                digest = hash_inputs(run, fingerprint, compute.precision)
                predictions = load_predictions(run, digest, records, len(dataset.classes))
                if predictions is None:
                    predictions = self._predict(run, label, dataset, records, compute)
                    save_predictions(run, digest, predictions)
        except GtaError as error:
            self.notes.add(f"{run.name}: no predictions on its {IMAGES_OF[part]} ({error})")
            return None
        self._check(run, part, records, predictions)
        return RunPredictions(dataset, records, predictions, IMAGES_OF[part])

    def _predict(
        self,
        run: ReportRun,
        label: str,
        dataset: ImageDataset,
        records: Sequence[Record],
        compute: Compute,
    ) -> Predictions:
        model = load_folder(run.path)
        if model.classes != dataset.classes:
            raise GtaError("its classes are not those of the dataset")
        with self.progress(f"classifying images, {label}", len(records)) as advance:
            return self.predictor.predict(model, records, advance, compute)

    def _check(
        self,
        run: ReportRun,
        part: Literal["test", "val"],
        records: Sequence[Record],
        predictions: Predictions,
    ) -> None:
        """Note a difference between the predictions and the summary."""
        hits = [predictions[r.key][0] == r.label for r in records if r.key in predictions]
        reported = (run.summary or {})[f"{part}_top1"]
        if hits and abs(sum(hits) / len(hits) - reported) > TOLERANCE:
            self.notes.add(
                f"{run.name}: {100 * sum(hits) / len(hits):.1f} % of its {IMAGES_OF[part]} are "
                f"correct here, but {100 * reported:.1f} % according to its summary"
            )
