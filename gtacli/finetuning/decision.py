"""The decision, before the first step, in which blocks a run keeps the source's attention.

It is made where `lam` is not set and the first regularizer is `gta`. Attention is kept, with the
regularizer's default strength, in the lower half of the blocks, except where the training images
agree on how it should change (see `agreement`). In the upper half it is always released: there the
attention of a source that suits the labels hardly gains anything over that of the lower half, and
that of one that does not suit them costs many points. Held-out accuracy in %, ViT-Tiny/16, one
seed, 10 epochs:

                                              plain    lower half    all blocks
    birds, 5 images a class, 224 px            77.5          79.8          80.6
    birds, 5 images a class, 160 px            74.0          75.1          76.5
    groceries, 6 images a class, 128 px        91.5          92.3          85.9
    groceries, 2 images a class, 128 px        78.3          79.1          72.1
    12 object classes, 24 images, 128 px       91.6          90.5          89.4
"""

from __future__ import annotations

import logging
import math
from typing import cast

from gtacli.config.finetune import FinetuneConfig
from gtacli.config.parts import GTAOptions
from gtacli.errors import GtaError
from gtacli.finetuning.agreement import Agreement, measure_agreement
from gtacli.finetuning.head_start import evenly
from gtacli.finetuning.prepare import FinetuneJob
from gtacli.finetuning.results import KeptAttention
from gtacli.regularizers.gta import GTA
from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)
DECISION_FILE = "kept_attention.json"
REGULARIZER = "gta"
STRENGTH: float = GTAOptions.model_fields["lam"].default
LIMIT = 0.5
"""Agreement from which on a block's attention is released."""
SUITABLE = 0.2
"""Accuracy of a linear probe on held-out images below which all attention is released.

100 object classes at 64 px, where the probe has 12 %: plain 34.8 %, lower half 31.3, all 26.3.
"""
IMAGES = 600
"""Images that the agreement is measured on, unless there are more than 120 classes."""
IMAGES_OF_CLASS = 5


def decide(job: FinetuneJob, run: RunFolder, dry_run: bool = False) -> KeptAttention:
    """Return the decision for a job, or that of the run that is resumed.

    It is empty for a run that began before decisions were made: the regularizer's defaults hold.
    """
    if job.config.resume is not None:
        if run.has(DECISION_FILE):
            return _read(run, job.depth)
        if run.has_state():
            return {}
    candidates, found = _candidates(job), None
    if candidates:
        most = max(IMAGES, IMAGES_OF_CLASS * len(job.dataset.classes))
        records = evenly(job.records, job.config.batch_size if dry_run else most)
        found = measure_agreement(job, records)
    result = conclude(found, candidates, job.depth)
    run.write_json(DECISION_FILE, result)
    log.info("%s", result["why"])
    if found is not None and found.accuracy < SUITABLE:
        log.warning(
            "the source looks unsuitable: a linear probe on its features reaches %.0f %% on "
            "held-out training images; a larger `image_size` or another `model` may help",
            100 * found.accuracy,
        )
    return result


def _read(run: RunFolder, depth: int) -> KeptAttention:
    """Read a decision. Raises GtaError for a file that does not hold one for so many blocks."""
    value = run.read_json(DECISION_FILE)
    lam, blocks = value.get("lam"), value.get("kept_blocks")
    numbers = isinstance(blocks, list) and all(type(n) is int and 0 <= n < depth for n in blocks)
    if not (numbers and isinstance(lam, int | float) and 0 <= lam < math.inf):
        text = f"{run.path / DECISION_FILE} is damaged; remove it to decide again"
        raise GtaError(text, option="resume")
    return cast(KeptAttention, value)


def conclude(found: Agreement | None, candidates: tuple[int, ...], depth: int) -> KeptAttention:
    """Return the decision that follows from the agreement of all blocks.

    Args:
        found: None: it could not be estimated.
        candidates: blocks whose attention may be kept; none: the model has no CLS token.
        depth: number of blocks.
    """
    suits = found is None or found.accuracy >= SUITABLE
    kept = [n for n in candidates if suits and (found is None or found.blocks[n] < LIMIT)]
    if kept:
        text = f"the source's attention is kept in blocks {_ranges(kept)} of {depth}"
    else:
        text = "the source's attention is released"
    text += f" (lam {STRENGTH if kept else 0:g}): "
    if not candidates:
        text += "the model has no CLS token, whose attention it is"
    elif found is None:
        text += "there are too few images, or the model does not tell, whether it should change"
    elif not suits:
        text += (
            f"a linear probe on its features reaches only {100 * found.accuracy:.0f} % on held-out "
            "images"
        )
    elif len(kept) < len(candidates):
        most = max(found.blocks[n] for n in candidates)
        text += (
            f"the training images agree on how it should change in {len(candidates) - len(kept)} "
            f"of {len(candidates)} blocks (agreement up to {most:.1f}, released from {LIMIT:g})"
        )
    else:
        text += "the training images do not agree on how it should change"
    return {
        "lam": STRENGTH if kept else 0.0,
        "kept_attention": len(kept) / depth,
        "kept_blocks": kept,
        "agreement": None if found is None else [round(min(v, 1e6), 3) for v in found.blocks],
        "why": text,
    }


def apply(config: FinetuneConfig, decision: KeptAttention, depth: int) -> FinetuneConfig:
    """Return the config of the run that was decided for; `depth` is the number of blocks.

    Blocks are counted from the end, as those of a source of another depth have to be.
    """
    own = dict(config.regularizer[REGULARIZER])
    if decision["kept_blocks"]:
        own["layers"] = tuple(n - depth for n in decision["kept_blocks"])
    regularizer = {**config.regularizer, REGULARIZER: own}
    return config.model_copy(update={"lam": decision["lam"], "regularizer": regularizer})


def _candidates(job: FinetuneJob) -> tuple[int, ...]:
    """Return the blocks that `layers` names, or those in the lower half, that GTA can act on."""
    if REGULARIZER not in job.task.regularizers:
        return ()
    regularizer = cast(GTA, job.task.regularizers[REGULARIZER])
    blocks = tuple(ours for ours, _ in regularizer.layers)
    if "layers" in job.config.regularizer[REGULARIZER]:
        return blocks
    return tuple(n for n in blocks if n < -(-job.depth // 2))


def _ranges(numbers: list[int]) -> str:
    """Write ascending numbers as ranges: 0-2, 4."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
