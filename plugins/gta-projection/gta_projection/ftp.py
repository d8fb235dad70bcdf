"""Fast trainable projection (Tian et al., NeurIPS 2023, arXiv 2310.19182).

AdamW takes a step; then each row of a weight matrix is projected into the ball around its initial
weights whose radius, one for each matrix, is learned: with c the row's distance after the step,

    w = w_0 + min(1, gamma / ||c||_1) c.

gamma follows the gradient that the step before had through it, by Adam with a rate of 0.01, and
begins at 1e-8: the first step leaves the weights where they are. A vector is one row.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from gta_projection.adam import AnchoredAdamW
from gta_projection.options import FTPOptions
from gtacli.config.parts import OptimizerOptions
from gtacli.training.optimizers import OptimizerMethod

LEAST = 1e-8
RATE, BETAS = 1e-2, (0.9, 0.999)
"""Of Adam on gamma, as in the official code."""


class FTP(OptimizerMethod[FTPOptions]):
    """AdamW with a trainable projection towards the initial weights."""

    Options: ClassVar[type[OptimizerOptions]] = FTPOptions
    weight_decay = 0.0

    def create(
        self, groups: list[dict[str, Any]], lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return the optimizer of parameters that have their initial weights."""
        o = self.options
        own = {"betas": (o.beta1, o.beta2), "eps": o.eps, "k": o.k}
        return ProjectedAdamW(groups, {"lr": lr, "weight_decay": weight_decay, **own})


class ProjectedAdamW(AnchoredAdamW):
    """AdamW with fast trainable projection."""

    def correct(
        self, p: Tensor, change: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> Tensor:
        """Return the projection of the weights after the step."""
        anchor = state["anchor"]
        distance = p - change - anchor
        norms = _of_rows(distance.abs()) + LEAST
        if state["step"] == 1:
            zero = torch.zeros((), device=p.device)
            state["gamma"] = torch.full_like(zero, LEAST)
            state["gamma_mean"], state["gamma_square"] = zero, zero.clone()
        else:
            assert p.grad is not None
            gradient = (_of_rows(p.grad * state["distance"]) * state["scale"]).sum()
            gradient = torch.where(gradient > 0, gradient * group["k"], gradient)
            gamma = _adam(gradient, state)
            state["gamma"] = torch.minimum(gamma.clamp_min(LEAST), norms.max())
        state["distance"], state["scale"] = distance, 1 / norms
        new: Tensor = anchor + (state["gamma"] * state["scale"]).clamp(0, 1) * distance
        return new


def _of_rows(values: Tensor) -> Tensor:
    """Sum over all dimensions but the first, over the only one of a vector; they are kept."""
    return values.sum(tuple(range(1, values.ndim)) or None, keepdim=True)


def _adam(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Return gamma after a step of Adam."""
    step = state["step"]
    mean, square = (
        beta * state[key] + (1 - beta) * value
        for beta, key, value in zip(
            BETAS, ("gamma_mean", "gamma_square"), (gradient, gradient**2), strict=True
        )
    )
    state["gamma_mean"], state["gamma_square"] = mean, square
    mean, square = (m / (1 - b**step) for m, b in zip((mean, square), BETAS, strict=True))
    new: Tensor = state["gamma"] - RATE * mean / (square.sqrt() + LEAST)
    return new
