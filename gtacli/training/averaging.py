"""The mean of the weights over the end of a training (stochastic weight averaging).

Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018,
arXiv 1803.05407. Here the learning rate follows the schedule on; it is not held constant.
"""

from __future__ import annotations

import math

from timm.utils.model_ema import ModelEmaV3
from torch import nn

LAST_PART = 0.25
"""Fraction of the schedule's steps whose weights are averaged."""


class TrajectoryMean(ModelEmaV3):
    """A copy of a module with the mean of its weights after each of the last steps.

    Before the last part of the schedule it has the module's own weights. The weight of a step
    follows from its number alone, so there is no state beside the weights.

    Attributes:
        progress: fraction of the schedule that was done before the current step.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.progress = 0.0

    def get_decay(self, step: int | None = None) -> float:
        """Return the weight of the mean so far against the module's weights.

        Args:
            step: number of the current step, from 1.
        """
        assert step is not None
        return mean_decay(step - 1, self.progress)


def mean_decay(done: int, progress: float) -> float:
    """Return the weight of the mean so far in a uniform mean; 0 up to its first step.

    Args:
        done: steps before the current one.
        progress: `done` as a fraction of all steps.
    """
    if not done:
        return 0.0
    steps = round(done / progress)
    averaged = done - math.ceil(steps - steps * LAST_PART)
    return averaged / (averaged + 1) if averaged > 0 else 0.0
