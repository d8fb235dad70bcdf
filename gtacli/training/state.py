"""Where a run stands, and everything that it needs to go on from there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.task import TrainingTask
from timm.utils.model import unwrap_model
from torch import Tensor

from gtacli.runtime import rng
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE, Processes


@dataclass
class Progress:
    """Where a run stands; all that changes beside weights and optimiser.

    `chosen` holds what the first phase found, once a refit has begun.
    """

    phase: str = "train"
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    images: int = 0
    totals: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None
    best_score: float | None = None
    chosen: dict[str, Any] | None = None


def state_of(
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Everything a resumed run needs, as tensors and plain values. The processes differ in their
    random numbers alone."""
    fields = {k: v for k, v in vars(progress).items() if k not in ("rows", "totals")}
    return {
        "model": unwrap_model(task.get_trainable_module()).state_dict(),
        **task.get_checkpoint_state(ema=True),  # empty without a moving average
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "progress": fields,
        "totals": {k: v.cpu() for k, v in progress.totals.items()},
        "rows": json.dumps(progress.rows),
        "rng": processes.gather(rng.capture()),
    }


def restore(
    state: dict[str, Any],
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    processes: Processes = ALONE,
) -> Progress:
    """Put a saved state back; the inverse of `state_of`. A process that the saved run had not keeps
    the random numbers that it has."""
    unwrap_model(task.get_trainable_module()).load_state_dict(state["model"])
    if task.has_ema():
        task.load_checkpoint_state(state["state_dict_ema"], ema=True)
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    if processes.rank < len(state["rng"]):
        rng.restore(state["rng"][processes.rank])
    totals = {k: v.to(device) for k, v in state["totals"].items()}
    return Progress(**state["progress"], totals=totals, rows=json.loads(state["rows"]))


def make_ready(
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    compute: Compute,
    processes: Processes,
    state: dict[str, Any] | None,
    compiled: bool,
) -> tuple[torch.amp.GradScaler, Progress | None]:
    """Put a saved state back, if there is one, then compile and distribute the task: in this order
    the names of its weights are those of the state.

    Returns: the scaler of fp16 gradients, and where the saved run stood.
    """
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.loss_scaling)
    progress = None
    if state is not None:
        progress = restore(state, task, optimizer, scaler, compute.device, processes)
    if compiled:
        task.compile()
    if processes.size > 1:
        task.prepare_distributed([compute.device] if compute.device.type == "cuda" else None)
    return scaler, progress
