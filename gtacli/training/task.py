"""The contract between the training loop and what it trains."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gtacli.data.loader import Batch


class Task(Protocol):
    """A network and its loss: everything that the training loop needs from a command.

    `gtacli.training.timm_task.TimmTask` implements all of it but the step.

    Attributes:
        progress: fraction of the training that is done, 0 to 1; set before every step.
        update: number of the optimizer step, from 0; set before every step.
    """

    progress: float
    update: int

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        """Run the forward pass of a step on this process's images.

        Images and labels are on the device, the other fields on the CPU. Must not wait for the
        device.

        Returns: `loss`, the mean over the images, and further values. The loop logs the scalar
            ones as means over the epoch's images.
        """

    def train(self) -> Any:
        """Enter training mode."""

    def eval(self) -> Any:
        """Enter evaluation mode."""

    def start_epoch(self, epoch: int) -> None:
        """Prepare for the steps of an epoch; also called where an epoch is resumed."""

    def no_sync(self) -> AbstractContextManager[None]:
        """Return a context in which gradients stay in this process."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Change the weights after the optimizer has, as decoupled penalties do."""

    def update_ema(self, step: int) -> None:
        """Update the moving average of the weights, if there is one."""

    def epoch_metrics(self, means: dict[str, float]) -> dict[str, float | None]:
        """Return the metrics to log for an epoch, from the means of what its steps returned."""

    @property
    def unwrapped(self) -> nn.Module:
        """The module that learns, without the wrappers of `torch.compile` and DDP."""

    def compile(self) -> Any:
        """Compile the forward pass."""

    def prepare_distributed(self, device_ids: list[torch.device] | None = None) -> Any:
        """Average the gradients over the processes with DDP."""

    def shard(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide weights and gradients among the processes, in place of `prepare_distributed`.

        Args:
            optimizer: of these weights, without a state.
        """

    def weights(self) -> dict[str, Any]:
        """Return what the state of a run has to hold: the weights and their moving average."""

    def load_weights(self, state: Mapping[str, Any]) -> None:
        """Load what `weights` returned."""
