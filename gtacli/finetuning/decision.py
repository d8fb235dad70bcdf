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
ERRORS = 1.0
"""Standard errors of the difference from which on it counts."""


def decides(config: FinetuneConfig) -> bool:
    """Return whether a config leaves the decision to the program."""
    return config.lam is None and next(iter(config.regularizer), None) == REGULARIZER


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
    result = conclude(compare(job, strength, 0.0, run, dry_run), strength)
    run.write_json(DECISION_FILE, result)
    log.info("%s", result["why"])
    return result


def conclude(found: Comparison | None, strength: float) -> KeptAttention:
    """Return the decision that follows from a comparison of `strength` with 0."""
    if found is None:
        why = "no image can be held out to tell whether it helps"
        return _kept(strength, why)
    if found.difference > ERRORS * found.error:
        verb = "keeping it raises"
    elif found.difference < -ERRORS * found.error:
        verb = "keeping it lowers"
    else:
        verb = "keeping it does not measurably change"
    why = (
        f"in a short pilot {verb} the cross-entropy of {found.images} held-out images "
        f"({found.difference:+.3f} ± {found.error:.3f} nats)"
    )
    if verb != "keeping it raises":
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
