"""What the runs' networks answer on their test images. The answers are kept in the run folder
(predictions.json): the next report of the run need not ask again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence

import torch

from gtacli.data.base import ImageDataset, Record
from gtacli.data.loader import make_loader
from gtacli.data.store import ImageStore
from gtacli.errors import GtaError, RunError
from gtacli.models.loading import LoadedModel
from gtacli.report.looking import readied, transform_of
from gtacli.report.runs import Run
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.devices import Compute, choose_workers
from gtacli.runtime.run_files import PREDICTIONS_FILE, WEIGHTS_FILE

log = logging.getLogger(__name__)

Answers = dict[str, tuple[int, float]]
"""Key of an image -> number of the class, its probability."""


def tested_images(run: Run, dataset: ImageDataset) -> tuple[Record, ...]:
    """The images that the run was tested on; of a run that did not write them down, the test part.

    Raises GtaError where the data set lacks one.
    """
    try:
        keys = json.loads((run.path / "split.json").read_text(encoding="utf-8"))["test"]
    except (OSError, ValueError, KeyError, TypeError):
        return dataset["test"]
    records = {record.key: record for _, record in dataset.records()}
    missing = [key for key in keys if key not in records]
    if missing:
        raise GtaError(f"the data lacks {len(missing)} of its test images, such as {missing[0]}")
    return tuple(records[key] for key in keys)


class Tester:
    """Asks networks about test images; those who see the same share the decoded pixels."""

    def __init__(self, compute: Compute, batch_size: int, workers: int | None) -> None:
        self.compute, self.batch_size, self.workers = compute, batch_size, workers
        self._store: ImageStore | None = None

    def answers(
        self,
        model: LoadedModel,
        records: Sequence[Record],
        advance: Callable[[int], object],
    ) -> Answers:
        """The likeliest class of each readable image."""
        view = transform_of(model)
        store = self._stored(tuple(records), view.load_size, model.interpolation)
        network = readied(model, self.compute)
        as_input = model.view(self.compute.device)
        found: Answers = {}
        workers = choose_workers(self.workers, self.compute.device, store.cached)
        size = 2 * self.batch_size
        for batch in make_loader(store, view, size, train=False, workers=workers):
            if len(batch.images):
                images = batch.images.to(self.compute.device)
                with torch.inference_mode(), self.compute.autocast():
                    best = network(as_input(images)).float().softmax(-1).max(-1)
                keys = [store.records[i].key for i in batch.indices.tolist()]
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                found |= dict(zip(keys, pairs, strict=True))
            advance(len(batch.images))
        return found

    def _stored(
        self, records: tuple[Record, ...], cover: tuple[int, int], interpolation: str
    ) -> ImageStore:
        kept = self._store
        same = kept is not None and (kept.records, kept.cover, kept.interpolation) == (
            records, cover, interpolation,
        )  # fmt: skip
        if kept is None or not same:
            kept = self._store = ImageStore(records, cover, interpolation=interpolation)
        return kept


def digest_of(run: Run, fingerprint: str) -> str:
    """Changes with the run's weights and with the data."""
    digest = hashlib.sha256(fingerprint.encode())
    with (run.path / WEIGHTS_FILE).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def kept_answers(run: Run, digest: str, records: Sequence[Record]) -> Answers | None:
    """Those of an earlier report on the same weights and images."""
    try:
        kept = json.loads((run.path / PREDICTIONS_FILE).read_text(encoding="utf-8"))
        found = {key: (int(c), float(p)) for key, (c, p) in kept["top1"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if kept.get("of") == digest and set(found) <= {r.key for r in records} else None


def keep_answers(run: Run, digest: str, answers: Answers) -> None:
    """For the next report; a folder that cannot be written is no reason to fail."""
    content = {"of": digest, "top1": {k: [c, round(p, 4)] for k, (c, p) in answers.items()}}
    text = json.dumps(content, indent=0) + "\n"
    try:
        write_atomic(run.path / PREDICTIONS_FILE, lambda p: p.write_text(text, encoding="utf-8"))
    except RunError as error:
        log.debug("%s", error)


def confusion(records: Sequence[Record], answers: Answers) -> list[list[int]]:
    """[true class, answered class, images] of every pair that occurs."""
    counts: dict[tuple[int, int], int] = {}
    for record in records:
        if record.key in answers:
            pair = (record.label, answers[record.key][0])
            counts[pair] = counts.get(pair, 0) + 1
    return [[*pair, count] for pair, count in sorted(counts.items())]


def worst_mistakes(
    records: Sequence[Record], by_run: Sequence[Mapping[str, tuple[int, float]]], count: int
) -> list[Record]:
    """The images in whose wrong classes the networks together believe most, worst first."""

    def belief(record: Record) -> float:
        given = [answers[record.key] for answers in by_run if record.key in answers]
        return sum(p for label, p in given if label != record.label)

    wrong = [record for record in records if belief(record) > 0]
    return sorted(wrong, key=lambda record: (-belief(record), record.key))[:count]
