"""Optimizers that timm's factory makes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from timm.optim import create_optimizer_v2, list_optimizers

from gtacli.config.parts import AdamWOptions, OptimizerOptions, SGDOptions
from gtacli.training.optimizers.base import OptimizerMethod

FUSED = {"fused": True}
"""One kernel for all tensors of a group, on the CPU too; the update is the same."""


class AdamW(OptimizerMethod[AdamWOptions]):
    """AdamW (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101), torch's."""

    Options: ClassVar[type[OptimizerOptions]] = AdamWOptions
    shardable = True

    def create(
        self, groups: list[dict[str, Any]], lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return torch's AdamW."""
        o = self.options
        own: dict[str, Any] = {"betas": (o.beta1, o.beta2), "eps": o.eps, **FUSED}
        return create_optimizer_v2(groups, opt="adamw", lr=lr, weight_decay=weight_decay, **own)


class SGD(OptimizerMethod[SGDOptions]):
    """Stochastic gradient descent with momentum, torch's."""

    Options: ClassVar[type[OptimizerOptions]] = SGDOptions
    lr = 1e-2
    weight_decay = 1e-4
    shardable = True

    def create(
        self, groups: list[dict[str, Any]], lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return torch's SGD."""
        o = self.options
        own: dict[str, Any] = {"momentum": o.momentum, "nesterov": o.nesterov, **FUSED}
        return create_optimizer_v2(groups, opt="sgd", lr=lr, weight_decay=weight_decay, **own)


class TimmOptimizer(OptimizerMethod[OptimizerOptions]):
    """An optimizer of timm by its name, with timm's own defaults.

    Args:
        name: of timm's list.
    """

    # Usual learning rates for the fine-tuning of a ViT; other optimizers have none.
    rates: ClassVar[dict[str, float]] = {"adam": 1e-4, "nadamw": 1e-4, "momentum": 1e-2}

    def __init__(self, name: str) -> None:
        super().__init__(OptimizerOptions())
        self.name = name
        self.lr = self.rates.get(name)
        self.shardable = name in ("adam", "momentum")
        self.weight_decay = SGD.weight_decay if name == "momentum" else 0.05

    def create(
        self, groups: list[dict[str, Any]], lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return what timm's factory makes."""
        own: dict[str, Any] = FUSED if self.name == "adam" else {}
        return create_optimizer_v2(groups, opt=self.name, lr=lr, weight_decay=weight_decay, **own)


def of_timm(name: str) -> TimmOptimizer | None:
    """Return timm's optimizer of a name; None if timm has none."""
    return TimmOptimizer(name) if name in list_optimizers() else None
