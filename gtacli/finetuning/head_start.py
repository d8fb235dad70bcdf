"""The start of a run's new classifier, and the linear probe that its result is compared with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch

from gtacli.data.sampling import evenly
from gtacli.errors import GtaError
from gtacli.finetuning.frozen_features import extract_features, training_features
from gtacli.finetuning.linear_head import (
    FrozenFeatures,
    LinearHead,
    fit_centroids,
    fit_probe,
    set_head,
    without_prior,
)
from gtacli.finetuning.prepare import FinetuneJob
from gtacli.finetuning.results import LinearProbe
from gtacli.finetuning.suitability import find_suitability
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
    if not job.new_head or method == "random":
        return
    if method == "auto":
        found = find_suitability(job, max_batches)
        if found is not None and found.verdict < 0 and job.config.train != "head":
            log.info(
                "`head_init=auto`: zero, as the features of all blocks tell the classes better "
                "than those of the classifier"
            )
            return
        method = "probe"
    head = _fit(job, method, max_batches)
    if job.config.balance != "none" and method == "probe":  # class means have no prior
        head = without_prior(head, torch.tensor([record.label for record in job.records]))
    models = {id(model): model for model in (job.target.model, job.evaluated.model)}
    fits = [set_head(model, job.target.head, head) for model in models.values()]
    if not all(fits):
        log.warning("`head_init=%s` has no effect: the classifier is not linear", method)


def measure_probe(job: FinetuneJob, run: RunFolder, max_batches: int | None = None) -> LinearProbe:
    """Return the test accuracy of a logistic regression on the features that the run starts from.

    It is measured once, before the first step, and read from the folder of a resumed run. Nothing
    is measured without test images, for a classifier that is already trained, where the option
    does not ask for it, or where not all training images can be used.
    """
    config = job.config
    if config.resume is not None and run.has(PROBE_FILE):
        top1 = run.read_json(PROBE_FILE).get("linear_probe_top1")
        return {"linear_probe_top1": float(top1)} if isinstance(top1, int | float) else {}
    whole = len(job.records) <= MOST_IMAGES
    if not (config.linear_probe and job.new_head and job.split.test and whole):
        return {}
    head = _fit(job, "report", max_batches)
    try:
        features = extract_features(job, job.split.test, max_batches, again=True)
    except GtaError:  # without a readable test image there is no accuracy either
        return {}
    result: LinearProbe = {"linear_probe_top1": head.accuracy(features)}
    run.write_json(PROBE_FILE, result)
    percent = 100 * result["linear_probe_top1"]
    log.info("a linear probe on frozen features: test top-1 %.1f %%", percent)
    return result


def _fit(job: FinetuneJob, method: str, max_batches: int | None) -> LinearHead:
    """Fit a classifier to the features of the training images, once for all jobs of a run."""
    heads, key = job.stores.heads, (method, job.records)
    if key not in heads:
        features = training_features(job, evenly(job.records, MOST_IMAGES), max_batches)
        heads[key] = FIT[method](features, len(job.dataset.classes))
    return heads[key]
