"""The decision, before the first step, whether a run keeps the source's attention.

It is made where `lam` is not set and the first regularizer is `gta`: attention is kept with the
regularizer's default strength, unless held-out images are measurably worse off with it after a
short training (see `pilot`).
"""

from __future__ import annotations

import logging
from typing import cast

from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.pilot import Comparison, compare
from gtacli.finetuning.prepare import FinetuneJob
from gtacli.finetuning.results import KeptAttention
from gtacli.registry import REGULARIZERS
from gtacli.runtime.run_files import STATE_FILE
from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)
DECISION_FILE = "kept_attention.json"
REGULARIZER = "gta"
EVERY = 2
"""Steps from one penalty to the next in a run that keeps attention."""
LIMIT = 0.08
"""Nats by which a kept attention may raise the cross-entropy of held-out images in the pilot."""


def decides(config: FinetuneConfig) -> bool:
    """Return whether a config leaves the decision to the program."""
    return (
        config.lam is None
        and next(iter(config.regularizer), None) == REGULARIZER
        and config.train != "head"  # whose attention cannot change
    )


def apply(config: FinetuneConfig, decision: KeptAttention) -> FinetuneConfig:
    """Return the config of the run that was decided for.

    A penalty in every second step, twice as strong, leaves the same accuracy (birds at 160 px:
    76.8 instead of 76.5 %) at half its cost. `every`, where it is set, stays.
    """
    own = {"every": EVERY, **config.regularizer[REGULARIZER]}
    regularizer = {**config.regularizer, REGULARIZER: own}
    return config.model_copy(update={"lam": decision["lam"], "regularizer": regularizer})


def decide(job: FinetuneJob, run: RunFolder, dry_run: bool = False) -> KeptAttention:
    """Return the decision for a job, or that of the run that is resumed.

    It is empty for a run that began before decisions were made: the regularizer's default holds.
    """
    if job.config.resume is not None:
        if run.has(DECISION_FILE):
            return cast(KeptAttention, run.read_json(DECISION_FILE))
        if run.has(STATE_FILE):
            return {}
    strength = REGULARIZERS.load(REGULARIZER).Options.model_fields["lam"].default
    kept, released = (apply(job.config, {"lam": lam}) for lam in (strength, 0.0))
    result = conclude(compare(job, kept, released, run, dry_run), strength)
    run.write_json(DECISION_FILE, result)
    log.info("%s", result["why"])
    return result


def conclude(found: Comparison | None, strength: float) -> KeptAttention:
    """Return the decision that follows from a comparison of `strength` with 0."""
    if found is None:
        why = "no image can be held out to tell whether it helps"
        return _kept(strength, why)
    kept = found.difference <= LIMIT
    why = (
        f"in a short pilot it changes the cross-entropy of {found.images} held-out images by "
        f"{found.difference:+.3f} ± {found.error:.3f} nats ({'at most' if kept else 'more than'} "
        f"{LIMIT:g})"
    )
    if kept:
        return _kept(strength, why)
    return {
        "lam": 0.0,
        "kept_attention": 0.0,
        "why": f"the source's attention is released (lam 0): {why}",
    }


def _kept(strength: float, why: str) -> KeptAttention:
    return {
        "lam": strength,
        "kept_attention": 1.0,
        "why": f"the source's attention is kept (lam {strength:g}): {why}",
    }
