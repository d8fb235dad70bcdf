"""Calibration of a run by one temperature, chosen on images that it has not learned from.

They are those that it has held out. A run with `folds` has held none out: then they are its
training images, as networks have classified them that never saw them.

With the temperature a threshold is chosen. Of one class per image it is the probability from which
on predictions are sure. Of any number of labels it is the one above which a label is predicted,
where the F1 of all labels together is highest. It is one for all classes: with few images of each,
thresholds of their own fit these images, and others worse (see docs/finetune.md).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from gtacli.config.calibrate import CalibrateConfig
from gtacli.data.base import ImageDataset, Record
from gtacli.data.spec import load_dataset
from gtacli.errors import UsageError
from gtacli.images.depth import reading_by_default
from gtacli.inference.calibrated import (
    LabelThreshold,
    Reliability,
    RunCalibration,
    write_calibration,
)
from gtacli.inference.logits import ClassLogits, class_logits
from gtacli.measures.calibration import (
    expected_calibration_error,
    fit_label_temperature,
    fit_temperature,
    lowest_sure,
    reliability,
)
from gtacli.measures.multilabel import THRESHOLD, best_threshold, score_labels
from gtacli.models.loading import LoadedModel, load_folder
from gtacli.runtime.devices import Compute
from gtacli.runtime.fetching import recorded_specs
from gtacli.trained.results import CalibratedLabels, CalibrateSummary
from gtacli.trained.runs import TrainedRun, common_held_out, fold_logits, read_run, test_images

log = logging.getLogger(__name__)
FEW = 50
"""Images below which a temperature is a rough guess."""


def calibrate(config: CalibrateConfig, path: Path, compute: Compute) -> CalibrateSummary:
    """Fit a run's temperature and threshold, and write them into its folder.

    Raises UsageError for a run that has held out no image, GtaError for an unreadable one.
    """
    run = read_run(path)
    with reading_by_default(run.config.bands, run.config.value_range):
        return _calibrate(config, run, compute)


def _calibrate(config: CalibrateConfig, run: TrainedRun, compute: Compute) -> CalibrateSummary:
    path, several = run.path, run.config.multi_label
    if several and "accuracy" in config.model_fields_set:
        text = "is for one class per image; those of this run have any number of labels"
        raise UsageError(text, option="accuracy")
    spec = config.data if config.data is not None else run.config.data
    if spec is None:
        raise UsageError(f"{path} does not say what it was trained on", option="data")
    with recorded_specs("the record of a run", config.allow_fetch):
        dataset = load_dataset(spec, several)
    model = load_folder(path)
    tested = test_images(run, dataset)
    compute = compute.at(run.precision)
    own = _unseen(config, run, dataset, model, compute)
    _warn_of_few(own)
    temperature = _fit(own)
    other = _read(config, model, tested, compute) if tested else None
    shown = own if other is None else other
    sure = None if several else _sure_from(own, temperature, config.accuracy)
    labels = _score_threshold(own, other, temperature) if several else {}
    images: Literal["val", "test"] = "val" if other is None else "test"
    found = RunCalibration(
        temperature=temperature,
        threshold=None if sure is None else sure[0],
        labels=_label_threshold(labels, images),
        accuracy=None if several else config.accuracy,
        images=len(own.labels),
        reliability=Reliability(
            images=images,
            before=tuple(reliability(*_confidence(shown, 1.0))),
            after=tuple(reliability(*_confidence(shown, temperature))),
        ),
    )
    write_calibration(path, found)
    kept, right = (None, None) if other is None else _sure(other, found)
    return {
        "command": "calibrate",
        "run": str(path),
        "temperature": temperature,
        "threshold": found.threshold,
        "sure": None if sure is None else sure[1],
        "val_ece_before": _error(own, 1.0),
        "val_ece": _error(own, temperature),
        "test_ece_before": None if other is None else _error(other, 1.0),
        "test_ece": None if other is None else _error(other, temperature),
        "test_sure": kept,
        "test_sure_top1": right,
        "n_val": len(own.labels),
        "n_test": 0 if other is None else len(other.labels),
        **cast(CalibratedLabels, labels),
    }


def _unseen(
    config: CalibrateConfig,
    run: TrainedRun,
    dataset: ImageDataset,
    model: LoadedModel,
    compute: Compute,
) -> ClassLogits:
    """Return logits of images by networks that have not learned from them."""
    held_out = common_held_out([run], dataset)
    if held_out:
        return _read(config, model, held_out, compute)
    found = fold_logits(run, len(dataset.classes))
    if found is None:
        raise UsageError(
            f"{run.path} has learned from all its images, so that none can say how sure it may be; "
            "train with `hold_out=20`, or with `folds=5`"
        )
    return found


def _read(
    config: CalibrateConfig, model: LoadedModel, records: Sequence[Record], compute: Compute
) -> ClassLogits:
    return class_logits(model, records, compute, config.batch_size, config.workers)


def _warn_of_few(own: ClassLogits) -> None:
    """Warn of images, or labels of images, that say little."""
    if own.has_several:
        count = int(own.labels.sum())
        if count < FEW:
            text = "held-out images with %d labels: temperature and threshold are rough guesses"
            log.warning(f"%d {text}", len(own.labels), count)
    elif len(own.labels) < FEW:
        log.warning("%d held-out images: the temperature is a rough guess", len(own.labels))


def _fit(own: ClassLogits) -> float:
    fit = fit_label_temperature if own.has_several else fit_temperature
    return fit(own.values.numpy(), own.labels.numpy())


def _confidence(logits: ClassLogits, temperature: float) -> tuple[Any, Any]:
    """Return the highest probabilities and whether they are right.

    With any number of labels: the probabilities of all of them, and whether the image has them.
    """
    scaled = logits.values.double() / temperature
    if logits.has_several:
        return scaled.sigmoid().flatten().numpy(), logits.labels.flatten().bool().numpy()
    best = scaled.softmax(-1).max(-1)
    return best.values.numpy(), (best.indices == logits.labels).numpy()


def _error(logits: ClassLogits, temperature: float) -> float:
    return expected_calibration_error(*_confidence(logits, temperature))


def _sure_from(own: ClassLogits, temperature: float, accuracy: float) -> tuple[float, float] | None:
    """Return the probability from which on predictions are sure, and the fraction of these."""
    found = lowest_sure(*_confidence(own, temperature), accuracy)
    if found is None:
        log.warning("`accuracy`: no probability reaches %g on the held-out images", accuracy)
    return found


def _sure(logits: ClassLogits, found: RunCalibration) -> tuple[float | None, float | None]:
    """Return the fraction of the images that are sure, and of these that are right."""
    if found.threshold is None:
        return None, None
    confidence, right = _confidence(logits, found.temperature)
    sure = confidence >= found.threshold
    return float(sure.mean()), float(right[sure].mean()) if sure.any() else None


def _score_threshold(
    own: ClassLogits, other: ClassLogits | None, temperature: float
) -> dict[str, float | None]:
    """Return the fields of any number of labels: the threshold, F1 above 0.5 and above it."""
    value = best_threshold((own.values.double() / temperature).sigmoid(), own.labels)
    if value is None:
        log.warning("no held-out image has a label, so none chooses the threshold")
    fields: dict[str, float | None] = {"label_threshold": value}
    for part, logits in (("val", own), ("test", other)):
        for end, threshold in (("_before", THRESHOLD), ("", value)):
            scores = None
            if logits is not None and threshold is not None:
                scores = score_labels(logits.values / temperature, logits.labels, threshold)
            for kind in ("micro", "macro"):
                key = f"{part}_f1_{kind}{end}"
                fields[key] = None if scores is None else getattr(scores, f"f1_{kind}")
    return fields


def _label_threshold(fields: Mapping[str, float | None], images: str) -> LabelThreshold | None:
    """Return the threshold with its F1 on some images; None if no label has chosen it."""
    value = fields.get("label_threshold")
    if value is None:
        return None
    before, after = (fields[f"{images}_f1_micro{end}"] or 0.0 for end in ("_before", ""))
    return LabelThreshold(value=value, f1_before=before, f1_after=after)
