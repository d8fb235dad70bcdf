"""The interface of an optimizer: its usual rates, and the torch optimizer of parameter groups.

A plug-in subclasses `OptimizerMethod`, defines a Pydantic class for its options, and registers
itself in the entry-point group `gta.optimizers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch

from gtacli.config.parts import OptimizerOptions

O = TypeVar("O", bound=OptimizerOptions)  # noqa: E741


class OptimizerMethod(ABC, Generic[O]):
    """A method by which weights are updated.

    Args:
        options: the method's validated options.

    Attributes:
        Options: class of the options.
        lr: usual learning rate for the fine-tuning of a ViT; None: it has none, and a user has to
            set one.
        weight_decay: usual weight decay.
        shardable: whether it treats every number of a parameter by itself, so that processes can
            share its parameters (`shard_model`).
    """

    Options: ClassVar[type[OptimizerOptions]] = OptimizerOptions
    lr: float | None = 1e-4
    weight_decay: float = 0.05
    shardable: bool = False

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def create(
        self, groups: list[dict[str, Any]], lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """Return the optimizer of parameters that have their initial weights.

        All that it changes belongs in its `state_dict`, with which a run is resumed bit for bit;
        the state of a parameter is created at its first step. Its groups keep the keys that they
        have.

        Args:
            groups: parameter groups with the keys `params`, `weight_decay` (0 for biases and
                norms), `lr_scale` (factor of the schedule's rate) and `head` (whether they are
                the classifier's, which begins new).
            lr: learning rate of groups without one; a schedule changes it before every step.
            weight_decay: of groups without one.
        """
