"""The start of a run's new classifier, and the linear probe that its result is compared with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import nn

from gtacli.data.base import Record
from gtacli.data.sampling import evenly
from gtacli.errors import GtaError
from gtacli.finetuning.frozen_features import extract_features, training_features
from gtacli.finetuning.job import FinetuneJob
from gtacli.finetuning.linear_head import (
    FrozenFeatures,
    LinearHead,
    fit_centroids,
    fit_probe,
    log_odds,
    set_biases,
    set_head,
    without_prior,
)
from gtacli.finetuning.results import LinearProbe
from gtacli.finetuning.suitability import find_suitability
from gtacli.measures.multilabel import score_labels
from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)
PROBE_FILE = "linear_probe.json"
MOST_IMAGES = 20_000
"""Images that a classifier is fitted to at most; with so many its start hardly matters."""
START_C = 0.01
"""C of the probe that a run starts with.

The probe that is reported (C = 1) fits the training images perfectly, so that the backbone would
learn little from them. Held-out accuracy of plain fine-tuning from either and from zero (ViT-Tiny,
10 epochs, one seed): birds at 128 px 67.1, 70.3, 70.5 %; groceries at 128 px 85.9, 90.4, 91.5 %.
"""
FIT: dict[str, Callable[[FrozenFeatures, int], LinearHead]] = {
    "probe": partial(fit_probe, c=START_C),
    "centroid": fit_centroids,
    "report": fit_probe,
}


def start_head(job: FinetuneJob, max_batches: int | None = None) -> None:
    """Set the new classifier of a job's networks as `head_init` says, before the first step."""
    method = job.config.head_init
    if not job.new_head:
        return
    if method == "auto":
        found = find_suitability(job, max_batches)
        method = "probe"
        if found is not None and found.verdict < 0 and job.config.train != "head":
            log.info(
                "`head_init=auto`: zero, as the features of all blocks tell the classes better "
                "than those of the classifier"
            )
            method = "random"
    if job.dataset.multi_label:
        _start_labels(job, method, max_batches)
        return
    if method == "random":
        return
    head = _fit(job, method, max_batches)
    if job.config.balance != "none" and method == "probe":  # class means have no prior
        head = without_prior(head, torch.tensor([r.label for r in _fitted_images(job)]))
    _set(job, method, lambda model: set_head(model, job.target.head, head))


def _start_labels(job: FinetuneJob, method: str, max_batches: int | None) -> None:
    """Start the classifier of any number of labels.

    At zero it starts with biases that predict how often each label comes (Lin et al., 2017, section
    3.3): from biases of zero the first epoch would go into learning that most labels are absent.
    """
    weights = job.task.loss.weights
    shift = 0.0 if weights is None else weights.log().cpu()
    if method == "random":
        bias = log_odds(job.records, len(job.dataset.classes)) + shift
        _set(job, method, lambda model: set_biases(model, job.target.head, bias))
        return
    found = _fit(job, method, max_batches)
    head = LinearHead(found.weight, found.bias + shift)
    _set(job, method, lambda model: set_head(model, job.target.head, head))


def _set(job: FinetuneJob, method: str, put: Callable[[nn.Module], bool]) -> None:
    """Put a classifier into a job's networks."""
    models = {id(model): model for model in (job.target.model, job.evaluated.model)}
    fits = [put(model) for model in models.values()]
    if not all(fits):
        log.warning("`head_init=%s` has no effect: the classifier is not linear", method)


def measure_probe(job: FinetuneJob, run: RunFolder, max_batches: int | None = None) -> LinearProbe:
    """Return the test accuracy of a logistic regression on the features that the run starts from.

    Of any number of labels per image it is the mean average precision of one for each class. It is
    measured once, before the first step, and read from the folder of a resumed run. Nothing is
    measured without test images, for a classifier that is already trained, where the option
    does not ask for it, or where not all training images can be used.
    """
    config = job.config
    if config.resume is not None and run.has(PROBE_FILE):
        return _read_probe(run)
    whole = len(job.records) <= MOST_IMAGES
    if not (config.linear_probe and job.new_head and job.split.test and whole):
        return {}
    head = _fit(job, "report", max_batches)
    try:
        features = extract_features(job, job.split.test, max_batches, again=True)
    except GtaError:  # without a readable test image there is no accuracy either
        return {}
    if job.dataset.multi_label:
        scores = score_labels(
            head.logits(features.values), features.multi_hot(len(job.dataset.classes))
        )
        if scores.map is None:
            return {}
        result: LinearProbe = {"linear_probe_map": scores.map}
        text, value = "test mAP", scores.map
    else:
        result = {"linear_probe_top1": head.accuracy(features)}
        text, value = "test top-1", result["linear_probe_top1"]
    run.write_json(PROBE_FILE, result)
    if not run.dry:
        log.info("a linear probe on frozen features: %s %.1f %%", text, 100 * value)
    return result


def _read_probe(run: RunFolder) -> LinearProbe:
    saved = run.read_json(PROBE_FILE)
    keys = ("linear_probe_top1", "linear_probe_map")
    found = {key: float(saved[key]) for key in keys if isinstance(saved.get(key), int | float)}
    return cast(LinearProbe, found)


def _fitted_images(job: FinetuneJob) -> tuple[Record, ...]:
    """Return the training images that a classifier is fitted to."""
    return evenly(job.records, MOST_IMAGES)


def _fit(job: FinetuneJob, method: str, max_batches: int | None) -> LinearHead:
    """Fit a classifier to the features of the training images, once for all jobs of a run."""
    chosen = _fitted_images(job)
    heads, key = job.stores.heads, (method, chosen)
    if key not in heads:
        features = training_features(job, chosen, max_batches)
        heads[key] = FIT[method](features, len(job.dataset.classes))
    return heads[key]
