"""The runs' data sets, and what each run answers on the images that it was tested on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from gtacli.data.base import ImageDataset, Record
from gtacli.data.unlabeled import load_images
from gtacli.errors import GtaError
from gtacli.models.loading import load_model
from gtacli.report.runs import Run
from gtacli.report.testing import (
    Answers,
    Tester,
    digest_of,
    keep_answers,
    kept_answers,
    tested_images,
)

log = logging.getLogger(__name__)

Progress = Callable[[str, int | None], AbstractContextManager[Callable[..., None]]]
TOLERANCE = 0.005
"""Of an accuracy: another device or batch size may decide close images otherwise."""


class Notes(list[str]):
    """What is missing, and why: on the page, and said at once."""

    def add(self, text: str) -> None:
        if text not in self:
            self.append(text)
            log.warning("%s", text)


class Exam(NamedTuple):
    """A run's test images and its answers."""

    dataset: ImageDataset
    records: tuple[Record, ...]
    answers: Answers


class Examiner:
    """Reads data sets, each once, and examines runs; what fails becomes a note."""

    def __init__(self, tester: Tester, notes: Notes, progress: Progress) -> None:
        self.tester, self.notes, self.progress = tester, notes, progress
        self._datasets: dict[str, tuple[ImageDataset, str] | None] = {}

    def dataset(self, run: Run) -> tuple[ImageDataset, str] | None:
        """The run's data set and its fingerprint, where it can be read."""
        spec = run.config.get("data")
        if not isinstance(spec, str):
            self.notes.add(f"{run.name}: its record does not name its data set")
            return None
        if spec not in self._datasets:
            self._datasets[spec] = None
            try:
                dataset = load_images(spec)
                self._datasets[spec] = dataset, dataset.fingerprint()
            except GtaError as error:
                self.notes.add(f"the data set {spec} cannot be read: {error}")
        found = self._datasets[spec]
        recorded = run.part("data").get("fingerprint")
        if found is not None and recorded not in (None, found[1]):
            self.notes.add(f"the data set {spec} has changed since {run.name} was trained")
        return found

    def examine(self, run: Run, label: str) -> Exam | None:
        """None for a run without a test: one that did not come to its end, or a pre-training."""
        if run.summary is None or not run.has_weights or run.summary.get("test_top1") is None:
            return None
        found = self.dataset(run)
        if found is None:
            return None
        dataset, fingerprint = found
        try:
            records = tested_images(run, dataset)
            digest = digest_of(run, fingerprint)
            answers = kept_answers(run, digest, records)
            if answers is None:
                answers = self._ask(run, label, dataset, records)
                keep_answers(run, digest, answers)
        except GtaError as error:
            self.notes.add(f"{run.name}: no answers on its test images ({error})")
            return None
        self._check(run, records, answers)
        return Exam(dataset, records, answers)

    def _ask(
        self, run: Run, label: str, dataset: ImageDataset, records: Sequence[Record]
    ) -> Answers:
        model = load_model(str(run.path))
        if model.classes != dataset.classes:
            raise GtaError("its classes are not those of the data set")
        with self.progress(f"test images, {label}", len(records)) as advance:
            return self.tester.answers(model, records, advance)

    def _check(self, run: Run, records: Sequence[Record], answers: Answers) -> None:
        """The table and the answers must tell the same."""
        hits = [answers[r.key][0] == r.label for r in records if r.key in answers]
        reported = (run.summary or {})["test_top1"]
        if hits and abs(sum(hits) / len(hits) - reported) > TOLERANCE:
            self.notes.add(
                f"{run.name}: {100 * sum(hits) / len(hits):.1f} % of its test images are right "
                f"here, but {100 * reported:.1f} % by its summary"
            )
