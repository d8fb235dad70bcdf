"""The decision, before the first step, in which blocks a run keeps the source's attention.

It is made where `lam` is not set and the first regularizer is `gta`. With the regularizer's default
strength, attention is kept

    in all blocks        where it suits the labels (see `suitability`);
    in none              where it does not;
    in the lower half    where the images cannot tell: nearly all that it can cost is lost in the
                         upper half, which selects what the CLS token knows in the end.

Accuracy in % on training images that were left out (of both), ViT-Tiny/16, six draws; the gain of
the penalty in all blocks over plain fine-tuning in points, one draw:

                                            CLS token    all blocks    gain
    birds, 5 images a class, 224 px                65            53    +3.1
    birds, 2 images a class, 224 px                34            14    +2.6
    birds, 5 images a class, 160 px                56            47    +2.5
    birds, 5 images a class, 128 px                44            40    -1.0
    12 object classes, 24 images, 128 px           83            85    -2.2
    groceries, 6 images a class, 224 px            81            87    -3.4
    groceries, 6 images a class, 128 px            62            78    -5.6
    groceries, 2 images a class, 128 px            32            42    -6.1
    100 object classes, 5 images, 64 px             8            12    -8.5
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import cast

from gtacli.config.finetune import FinetuneConfig
from gtacli.config.parts import GTAOptions
from gtacli.errors import GtaError
from gtacli.finetuning.job import FinetuneJob
from gtacli.finetuning.results import KeptAttention
from gtacli.finetuning.suitability import Suitability, find_suitability
from gtacli.regularizers.gta import GTA
from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)
DECISION_FILE = "kept_attention.json"
REGULARIZER = "gta"
STRENGTH: float = GTAOptions.model_fields["lam"].default
EVERY = 2
"""Steps from one penalty to the next: half its cost, the same accuracy within the noise."""
POOR = 0.2
"""Accuracy of the better classifier below which a warning says that the source knows little."""


def decide(job: FinetuneJob, run: RunFolder, dry_run: bool = False) -> KeptAttention:
    """Return the decision for a job, or that of the run that is resumed.

    It is empty for a run that began before decisions were made: the regularizer's defaults hold.
    """
    if job.config.resume is not None:
        if run.has(DECISION_FILE):
            return _read(run, job.depth)
        if run.has_state():
            return {}
    candidates = _candidates(job)
    found = find_suitability(job, 1 if dry_run else None, of_source=True)
    if dry_run:
        return _undecided(found, candidates, job.depth)
    result = conclude(found, candidates, job.depth)
    run.write_json(DECISION_FILE, result)
    log.info("%s", result["why"])
    if found is not None and max(found.cls, found.blocks) < POOR:
        log.warning(
            "the source looks unsuitable: a linear classifier of its features reaches %.0f %% on "
            "training images that it was not fitted to; a larger `image_size` or another `model` "
            "may help",
            100 * max(found.cls, found.blocks),
        )
    return result


def _undecided(found: Suitability | None, candidates: tuple[int, ...], depth: int) -> KeptAttention:
    """Return what a dry run goes on with: one batch, often an image a class, decides nothing."""
    if found is not None:
        found = replace(found, blocks=found.cls)
    result = conclude(found, candidates, depth)
    if found is not None:
        result["why"] = "a dry run does not decide how much of the source's attention is kept"
    log.info("%s", result["why"])
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


def conclude(found: Suitability | None, candidates: tuple[int, ...], depth: int) -> KeptAttention:
    """Return the decision that follows from an estimate.

    Args:
        found: None: the model has no CLS token.
        candidates: blocks whose attention may be kept.
        depth: number of blocks.
    """
    verdict = 0 if found is None else found.verdict
    lower = -(-depth // 2)
    kept = [n for n in candidates if verdict > 0 or (verdict == 0 and n < lower)]
    if kept:
        text = f"the source's attention is kept in blocks {_ranges(kept)} of {depth}"
    else:
        text = "the source's attention is released"
    text += f" (lam {STRENGTH if kept else 0:g}): {reason(found)}"
    return {
        "lam": STRENGTH if kept else 0.0,
        "kept_attention": len(kept) / depth,
        "kept_blocks": kept,
        **_figures(found),
        "why": text,
    }


def reason(found: Suitability | None) -> str:
    """Describe an estimate: how what the source's attention selects suits the labels."""
    if found is None:
        return "the model has no CLS token"
    what = "%, ranking of the classes of" if found.ranking else "% of"
    figures = f"{100 * found.cls:.0f} against {100 * found.blocks:.0f} {what} left-out images"
    verdict = {
        1: "what it selects tells the classes better than the features of all blocks",
        0: "these images cannot tell whether what it selects is what the classes need",
        -1: "what it selects tells the classes worse than the features of all blocks",
    }[found.verdict]
    return f"{verdict} ({figures})"


def _figures(found: Suitability | None) -> KeptAttention:
    if found is None:
        return {"cls_top1": None, "blocks_top1": None}
    if found.ranking:
        ranking: KeptAttention = {"cls_ranking": found.cls, "blocks_ranking": found.blocks}
        return {"cls_top1": None, "blocks_top1": None, **ranking}
    return {"cls_top1": found.cls, "blocks_top1": found.blocks}


def apply(config: FinetuneConfig, decision: KeptAttention, depth: int) -> FinetuneConfig:
    """Return the config of the run that was decided for; `depth` is the number of blocks.

    Blocks are counted from the end, as those of a source of another depth have to be.
    """
    own = dict(config.regularizer[REGULARIZER])
    if decision["kept_blocks"]:
        own.setdefault("every", EVERY)
        own["layers"] = tuple(n - depth for n in decision["kept_blocks"])
    regularizer = {**config.regularizer, REGULARIZER: own}
    return config.model_copy(update={"lam": decision["lam"], "regularizer": regularizer})


def _candidates(job: FinetuneJob) -> tuple[int, ...]:
    """Return the blocks that GTA guides: all, or those that `layers` names."""
    regularizer = job.task.regularizers.get(REGULARIZER)
    return () if regularizer is None else tuple(n for n, _ in cast(GTA, regularizer).layers)


def _ranges(numbers: list[int]) -> str:
    """Write ascending numbers as ranges: 0-2, 4."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
