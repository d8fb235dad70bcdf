"""The only module that uses timm's young `TrainingTask` API."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.task import TrainingTask
from timm.utils.model import unwrap_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gtacli.data.loader import Batch
from gtacli.runtime.tensor_parts import load_whole
from gtacli.training.averaging import TrajectoryMean
from gtacli.training.sharding import shard


class TimmTask(TrainingTask):
    """A base class of training tasks (see `gtacli.training.task.Task`) with one learning module.

    Args:
        module: the module that learns. Only this one is compiled, distributed, averaged and saved.
        device: the device that it is on.

    Attributes:
        epoch: the current epoch, from 0.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__(device=device, verbose=False)
        self.trainable_module: Any = module
        self.epoch = 0
        self.progress = 0.0
        self.update = 0
        self._ddp_options: dict[str, Any] = {}

    # timm's tasks take images and labels; ours take a batch.
    def forward(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        raise NotImplementedError

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        pass

    def epoch_metrics(self, means: dict[str, float]) -> dict[str, float | None]:
        return {**means}

    @property
    def unwrapped(self) -> nn.Module:
        return cast(nn.Module, unwrap_model(self.trainable_module))

    def setup_mean(self) -> None:
        """Average the weights over the end of the training, in place of `setup_ema`."""
        self.trainable_module_ema = TrajectoryMean(self.trainable_module)

    def update_ema(self, step: int | None = None) -> None:
        average = self.get_trainable_module(ema=True)
        if isinstance(average, TrajectoryMean):
            average.progress = self.progress
        super().update_ema(step)

    @property
    def averaged(self) -> nn.Module | None:
        """The average of the module, if `setup_ema` or `setup_mean` has been called."""
        average = self.get_trainable_module(ema=True)
        return None if average is None else cast(nn.Module, average.module)

    def compile(self) -> None:  # type: ignore[override]
        self.trainable_module = compile_graph(self.trainable_module)

    def prepare_distributed(
        self, device_ids: list[torch.device] | None = None, **options: Any
    ) -> TimmTask:
        self._ddp_options = {
            "device_ids": device_ids,
            "broadcast_buffers": False,  # a ViT's do not change
            "gradient_as_bucket_view": True,
            **options,
        }
        self.trainable_module = DistributedDataParallel(self.trainable_module, **self._ddp_options)
        return self

    def reset_distributed(self) -> None:
        """Rebuild DDP, which records at construction which parameters have gradients."""
        if isinstance(self.trainable_module, DistributedDataParallel):
            module = self.trainable_module.module
            self.trainable_module = None
            gc.collect()  # removes the old hooks
            self.trainable_module = DistributedDataParallel(module, **self._ddp_options)

    @property
    def networks(self) -> list[nn.Module]:
        """The networks that the processes can share: whose `forward` or parts are run."""
        return [m for m in (self.unwrapped, self.averaged) if m is not None]

    def shard(self, optimizer: torch.optim.Optimizer) -> None:
        shard(self.networks, optimizer)

    def weights(self) -> dict[str, Any]:
        average = self.get_checkpoint_state(ema=True)  # empty without a moving average
        return {"model": self.unwrapped.state_dict(), **average}

    def load_weights(self, state: Mapping[str, Any]) -> None:
        load_whole(self.unwrapped, state["model"])
        if self.averaged is not None:
            load_whole(self.averaged, state["state_dict_ema"])


def compile_graph(module: nn.Module) -> nn.Module:
    """Compile a module as one graph with static shapes."""
    return cast(nn.Module, torch.compile(module, fullgraph=True, dynamic=False))
