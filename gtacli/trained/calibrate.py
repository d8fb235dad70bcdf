"""Calibration of a run by one temperature, chosen on images that it has not learned from.

They are those that it has held out. A run with `folds` has held none out: then they are its
training images, as networks have classified them that never saw them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gtacli.config.calibrate import CalibrateConfig
from gtacli.data.base import ImageDataset
from gtacli.data.spec import load_dataset
from gtacli.errors import UsageError
from gtacli.inference.calibrated import Reliability, RunCalibration, write_calibration
from gtacli.inference.logits import ClassLogits, class_logits
from gtacli.measures.calibration import (
    expected_calibration_error,
    fit_temperature,
    lowest_sure,
    reliability,
)
from gtacli.models.loading import LoadedModel, load_model
from gtacli.runtime.devices import Compute
from gtacli.runtime.fetching import recorded_specs
from gtacli.trained.results import CalibrateSummary
from gtacli.trained.runs import TrainedRun, common_held_out, fold_logits, read_run, test_images

log = logging.getLogger(__name__)
FEW = 50
"""Images below which a temperature is a rough guess."""


def calibrate(config: CalibrateConfig, path: Path, compute: Compute) -> CalibrateSummary:
    """Fit a run's temperature and threshold, and write them into its folder.

    Raises UsageError for a run that has held out no image, GtaError for an unreadable one.
    """
    run = read_run(path)
    if run.config.multi_label:
        text = "has any number of labels per image; a temperature is chosen for one class"
        raise UsageError(f"{path} {text}")
    spec = config.data if config.data is not None else run.config.data
    if spec is None:
        raise UsageError(f"{path} does not say what it was trained on", option="data")
    with recorded_specs("the record of a run", config.allow_fetch):
        dataset = load_dataset(spec)
    model = load_model(str(path))
    tested = test_images(run, dataset)
    compute = compute.at(run.precision)
    own = _unseen(config, run, dataset, model, compute)
    if len(own.labels) < FEW:
        log.warning("%d held-out images: the temperature is a rough guess", len(own.labels))
    temperature = fit_temperature(own.values.numpy(), own.labels.numpy())
    sure = lowest_sure(*_confidence(own, temperature), config.accuracy)
    if sure is None:
        log.warning("`accuracy`: no probability reaches %g on the held-out images", config.accuracy)
    other = None
    if tested:
        other = class_logits(model, tested, compute, config.batch_size, config.workers)
    shown = own if other is None else other
    found = RunCalibration(
        temperature=temperature,
        threshold=None if sure is None else sure[0],
        accuracy=config.accuracy,
        images=len(own.labels),
        reliability=Reliability(
            images="val" if other is None else "test",
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
        return class_logits(model, held_out, compute, config.batch_size, config.workers)
    found = fold_logits(run, len(dataset.classes))
    if found is None:
        raise UsageError(
            f"{run.path} has learned from all its images, so that none can say how sure it may be; "
            "train with `hold_out=20`, or with `folds=5`"
        )
    return found


def _confidence(logits: ClassLogits, temperature: float) -> tuple[Any, Any]:
    """Return the highest probabilities and whether they are right."""
    best = (logits.values.double() / temperature).softmax(-1).max(-1)
    return best.values.numpy(), (best.indices == logits.labels).numpy()


def _error(logits: ClassLogits, temperature: float) -> float:
    return expected_calibration_error(*_confidence(logits, temperature))


def _sure(logits: ClassLogits, found: RunCalibration) -> tuple[float | None, float | None]:
    """Return the fraction of the images that are sure, and of these that are right."""
    if found.threshold is None:
        return None, None
    confidence, right = _confidence(logits, found.temperature)
    sure = confidence >= found.threshold
    return float(sure.mean()), float(right[sure].mean()) if sure.any() else None
