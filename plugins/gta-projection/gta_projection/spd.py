"""Selective projection decay (Tian et al., NeurIPS 2024, arXiv 2411.01713).

AdamW takes a step. Where a tensor's gradient points away from the initial weights w_0, the part of
the step by which the distance to them has grown is taken back:

    if g . (w - w_0) > 0:   w' -= strength max(0, 1 - ||w - w_0|| / ||w' - w_0||) (w' - w_0)

with w' the weights after the step. Where it does not, the step stays as it is. With a strength of 1
it is a projection onto the distance before the step.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from gta_projection.adam import AnchoredAdamW
from gta_projection.options import SPDOptions
from gtacli.config.parts import OptimizerOptions
from gtacli.training.optimizers import OptimizerMethod


class SPD(OptimizerMethod[SPDOptions]):
    """AdamW with selective projection decay towards the initial weights."""

    Options: ClassVar[type[OptimizerOptions]] = SPDOptions
    weight_decay = 0.0

    def create(
        self, groups: list[dict[str, Any]], lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return the optimizer of parameters that have their initial weights."""
        o = self.options
        own = {"betas": (o.beta1, o.beta2), "eps": o.eps, "strength": o.strength}
        return SelectiveAdamW(groups, {"lr": lr, "weight_decay": weight_decay, **own})


class SelectiveAdamW(AnchoredAdamW):
    """AdamW with selective projection decay."""

    def correct(
        self, p: Tensor, change: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> Tensor:
        """Return the weights after the step, nearer to the initial ones where it is selected."""
        assert p.grad is not None
        before, after = p - state["anchor"], p - change - state["anchor"]
        length = after.norm()
        grown = ((length - before.norm()) / length.clamp_min(1e-30)).clamp(0, 1)
        selected = (p.grad * before).sum() > 0
        decay = torch.where(selected, group["strength"] * grown, 0.0)
        return p - change - decay * after
