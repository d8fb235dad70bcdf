"""The state of a run: its progress, and all that is needed to continue it.

A state may be a stranger's, or from another version: whatever it holds, one that does not fit is
refused in a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from gtacli.config.base import StrictModel, read_content
from gtacli.errors import GtaError
from gtacli.runtime import rng
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import Processes
from gtacli.runtime.strict_json import parse_json, reason_of
from gtacli.training.selection import is_as_good, score_of
from gtacli.training.sharding import load_optimizer
from gtacli.training.task import Task


@dataclass
class Progress:
    """The position of a run: everything that changes, other than weights and optimizer.

    Attributes:
        phase: "train" or "refit".
        epoch, batch: the ones that come next.
        seconds, images: training time and images of the current epoch so far.
        totals: sums of the current epoch's metrics over its images, on the device.
        rows: the rows of metrics.jsonl.
        best_epoch, best_score: of the weights that are saved, see `gtacli.training.selection`.
        chosen: best epoch and score of the first phase, once a refit has begun.
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

    def mean(self, name: str) -> float:
        """Return the mean of a metric over the current epoch's images; waits for the device."""
        return float(self.totals[name]) / max(self.images, 1)

    def end_epoch(self, row: dict[str, Any], images: int) -> bool:
        """Move on to the next epoch; return whether its weights are to be saved.

        Args:
            row: of metrics.jsonl; without a score the last weights are saved.
            images: number of images that the score was measured on.
        """
        score = score_of(row)
        best = score is None or is_as_good(score, map(score_of, self.rows), images)
        if best:
            self.best_epoch, self.best_score = self.epoch, score
        self.rows.append(row)
        self.epoch, self.batch, self.totals = self.epoch + 1, 0, {}
        self.seconds, self.images = 0.0, 0
        return best


Count = Annotated[int, Field(ge=0)]


class _SavedChoice(StrictModel):
    """The epoch that a refit trains to; the score and the average that were best."""

    best_epoch: Count
    val_top1: float | None = None
    val_map: float | None = None
    alpha: Annotated[float, Field(ge=0, le=1)] | None = None


class _SavedProgress(StrictModel):
    """The fields of `Progress` as a state holds them, beside rows and totals."""

    phase: Literal["train", "refit"]
    epoch: Count
    batch: Count
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    images: Count
    best_epoch: Count | None
    best_score: float | None
    chosen: _SavedChoice | None


class _SavedAttention(StrictModel):
    """The entries of an epoch's tracked attention that the summary reads."""

    model_config = ConfigDict(extra="allow")

    inside: Annotated[list[float | None], Field(min_length=1)] | None
    area: float | None


class _SavedRow(StrictModel):
    """The entries of an earlier epoch that a run reads; metrics may not be finite."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    epoch: Count
    images_per_second: Annotated[float, Field(ge=0)]
    val_top1: float | None = None
    val_map: float | None = None
    attention: _SavedAttention | None = None


class SavedOrigin(StrictModel):
    """The config that a state was trained with, and the digest of its split."""

    config: dict[str, Any]
    split: str


def get_state(
    task: Task,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    processes: Processes,
) -> dict[str, Any]:
    """Return everything that a resumed run needs, as tensors and plain values.

    Only the states of the random number generators differ between processes.
    """
    fields = {k: v for k, v in vars(progress).items() if k not in ("rows", "totals")}
    return {
        **task.weights(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "progress": fields,
        "totals": {k: v.cpu() for k, v in progress.totals.items()},
        "rows": json.dumps(progress.rows),
        "rng": processes.gather(rng.capture()),
    }


def restore(
    state: dict[str, Any],
    task: Task,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    processes: Processes,
) -> Progress:
    """Load what `get_state` returned.

    A process that the saved run did not have keeps its own random numbers.

    Raises GtaError (option "resume") if the state is not of such a run.
    """
    progress = read_progress(state)
    with fitting():
        task.load_weights(state)
        load_optimizer(optimizer, state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        if processes.rank < len(state["rng"]):
            rng.restore(state["rng"][processes.rank])
        progress.totals = {str(k): v.to(device) for k, v in state["totals"].items()}
    return progress


def read_progress(state: Mapping[str, Any]) -> Progress:
    """Return the progress in a state, without the totals of the current epoch.

    Raises GtaError (option "resume") if it holds none.
    """
    with fitting():
        rows = parse_json(state["rows"], nonfinite=True)
        if not isinstance(rows, list):
            raise ValueError("its `rows` are no metrics of epochs")
        for row in rows:
            read_content(_SavedRow, row, "rows")
        saved = read_content(_SavedProgress, state["progress"], "progress")
        return Progress(**saved.model_dump(exclude_unset=True), rows=rows)


def read_origin(state: Mapping[str, Any]) -> SavedOrigin | None:
    """Return the origin in a state; None for a state of an earlier version.

    Raises GtaError (option "resume") if it holds other things.
    """
    if state.get("origin") is None:
        return None
    with fitting():
        return read_content(SavedOrigin, parse_json(state["origin"], nonfinite=True), "origin")


@contextmanager
def fitting() -> Iterator[None]:
    """Raise GtaError for a state that holds other things than its reader expects."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except KeyError as error:
        raise _does_not_fit(f"it has no {error}") from error
    except ValueError as error:
        raise _does_not_fit(reason_of(error)) from error
    except (TypeError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        raise _does_not_fit("it holds values of other types or shapes") from error


def _does_not_fit(reason: str) -> GtaError:
    text = f"the saved state does not fit this run: {reason}; begin a new run"
    return GtaError(text, option="resume")


def make_ready(
    task: Task,
    optimizer: torch.optim.Optimizer,
    compute: Compute,
    processes: Processes,
    state: dict[str, Any] | None,
    compiled: bool,
    sharded: bool = False,
) -> tuple[torch.amp.GradScaler, Progress | None]:
    """Restore a saved state, if there is one, then compile and distribute the task.

    In this order, because wrappers would change the names of the weights. Sharding does not, and
    lets each process load its part of the optimizer's state alone.

    Args:
        compiled: compile the task.
        sharded: let the processes share the weights.

    Returns: the scaler of fp16 gradients, and the progress of the saved run.
    """
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.loss_scaling)
    progress = None
    if sharded:
        task.shard(optimizer)
    if state is not None:
        progress = restore(state, task, optimizer, scaler, compute.device, processes)
    if compiled:
        task.compile()
    if processes.size > 1 and not sharded:
        task.prepare_distributed([compute.device] if compute.device.type == "cuda" else None)
    return scaler, progress
