"""The option `average=source`: a mean of the weights before and after training (WiSE-FT).

Wortsman et al., "Robust fine-tuning of zero-shot models", 2022, arXiv 2109.01903:
w = (1 - alpha) w_start + alpha w_end. Their classifier is a zero-shot one. Ours is new, so only the
backbone is averaged and the classifier is the trained one.

Alpha is chosen on held-out images by the accuracy (of any number of labels the mAP), among equals
by the cross-entropy. There is no standard error in it: the means are close to each other and answer
the same images, so they differ far less by chance than two epochs do. Without held-out images alpha
is 0.5, the paper's advice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gtacli.errors import UsageError
from gtacli.finetuning.evaluation import Evaluation
from gtacli.models.loading import LoadedModel
from gtacli.models.lora import merged_state

log = logging.getLogger(__name__)

ALPHAS = (0.25, 0.5, 0.75, 1.0)
UNCHOSEN = 0.5
HEADER = "average_alpha"
"""The key in the header of averaged weights."""


@dataclass(frozen=True)
class Averaged:
    """The weights that a run ends with, and their metrics.

    Attributes:
        alpha: weight of the trained backbone.
        found: metrics of the mean.
    """

    alpha: float
    found: Evaluation


def start_weights(target: LoadedModel) -> dict[str, Tensor]:
    """Copy the backbone's weights before the first step to the CPU.

    Raises UsageError if they are random.
    """
    if not target.report.loaded:
        text = f"source: {target.spec} has random weights, with which a mean is meaningless"
        raise UsageError(text, option="average")
    named = merged_state(target.model).items()
    return {k: v.detach().cpu().clone() for k, v in named if not k.startswith(target.head)}


def mean_of(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Return (1 - alpha) start + alpha end; tensors that `start` lacks are those of `end`."""
    return {
        k: torch.lerp(start[k].to(v), v, alpha) if k in start and v.is_floating_point() else v
        for k, v in end.items()
    }


def choose_alpha(
    load: Callable[[float], None], evaluate: Callable[[], Evaluation], alpha: float | None
) -> Averaged:
    """Choose the weight of the trained backbone, and load the mean.

    Args:
        load: loads the mean of this weight.
        evaluate: measures it on the held-out images; without any its `top1` is None.
        alpha: chosen already.
    """
    if alpha is not None:
        load(alpha)
        return Averaged(alpha, evaluate())
    measured = {}
    for each in ALPHAS:
        load(each)
        measured[each] = evaluate()
    best = max(ALPHAS, key=lambda each: rank(measured[each], each))
    load(best)
    scores = ", ".join(f"{a:g}: {100 * (f.score or 0):.1f} %" for a, f in measured.items())
    what = "accuracy" if measured[best].labels is None else "mAP"
    log.info("`average=source`: alpha %g (held-out %s %s)", best, what, scores)
    return Averaged(best, measured[best])


def rank(found: Evaluation, alpha: float) -> tuple[float, float, float]:
    """Return the sort key of a mean; the greatest is chosen."""
    return found.score or 0.0, -(found.loss or 0.0), alpha
