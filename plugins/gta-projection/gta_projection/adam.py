"""AdamW whose step may be moved towards the weights that it began with."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class AnchoredAdamW(torch.optim.Optimizer, ABC):
    """AdamW with a correction of each step by the initial weights.

    The classifier begins new, so that its groups (`head`) take plain steps of AdamW. A parameter's
    initial weights are kept from its first step on, in its state, with which a run is resumed.

    Args:
        groups: parameter groups of `gtacli.training.optimizers`.
        defaults: lr, betas, eps and weight_decay, and what the correction needs.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    self._begin(p, state, group)
                change = _change(p, state, group)
                p.copy_(p - change if group["head"] else self.correct(p, change, state, group))

    def _begin(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = 0
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        if not group["head"]:
            state["anchor"] = p.clone()

    @abstractmethod
    def correct(
        self, p: Tensor, change: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> Tensor:
        """Return the new weights.

        Args:
            p: the weights before the step, with their gradient.
            change: what AdamW subtracts from them.
            state: of the parameter; `anchor` has its initial weights, `step` counts from 1.
            group: of the parameter.
        """


def _change(p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Update the averages of the gradient and return what AdamW subtracts."""
    assert p.grad is not None
    beta1, beta2 = group["betas"]
    state["step"] += 1
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    mean.mul_(beta1).add_(p.grad, alpha=1 - beta1)
    square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
    root = (square.sqrt() / math.sqrt(1 - beta2 ** state["step"])).add_(group["eps"])
    rate = group["lr"] / (1 - beta1 ** state["step"])
    return rate * mean / root + group["lr"] * group["weight_decay"] * p
