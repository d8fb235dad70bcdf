"""The training loop: one, for every task.

Nothing here waits for the device within a step: figures stay on it and are read every
`CHECK_EVERY` batches, when the NaN guard looks too. The state is saved after every epoch and on an
interruption; batches follow from (seed, epoch, position), so a resumed run sees what the
uninterrupted one would have.

Several processes share every batch. Each weighs its loss by its share of the images, so that the
step is that of the whole batch, and all of them see the same figures and take the same decisions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.utils.model import unwrap_model
from torch import Tensor, nn

from gtacli.data.loader import Batch
from gtacli.errors import Interrupted, RunError
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.runtime.interrupts import StopSignal
from gtacli.runtime.run_folder import RunFolder
from gtacli.training.state import Progress, state_of

log = logging.getLogger(__name__)

CHECK_EVERY = 20


class Observer(Protocol):
    """Who watches a run: a progress bar, a log. Called seldom, with plain numbers."""

    def step(self, epoch: int, batch: int, batches: int, epochs: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


class Unobserved:
    """Nobody watches."""

    def step(self, epoch: int, batch: int, batches: int, epochs: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Plan:
    """How long and how.

    Attributes:
        epochs: length of the schedule.
        images: of an epoch.
        batch_size: images of a batch, of all processes together; the last one of an epoch may be
            smaller.
        accumulate: batches to an optimiser step.
        clip_grad: largest norm of the gradient, or None.
    """

    epochs: int
    images: int
    batch_size: int
    accumulate: int = 1
    clip_grad: float | None = None

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.images // self.batch_size)

    @property
    def updates(self) -> int:
        """Optimiser steps of an epoch."""
        return -(-self.batches // self.accumulate)

    def group(self, batch: int) -> int:
        """Images of all batches of the optimiser step that `batch` belongs to: its share of the
        step's mean follows, so that accumulated batches are one big batch."""
        whole = self.batch_size * self.accumulate
        return min(whole, self.images - batch // self.accumulate * whole)


def fit(
    task: TrainingTask,
    batches: Callable[[int, int], Iterable[Batch]],
    evaluate: Callable[[], dict[str, Any]],
    keep_best: Callable[[], None],
    optimizer: torch.optim.Optimizer,
    schedule: Scheduler,
    scaler: torch.amp.GradScaler,
    compute: Compute,
    plan: Plan,
    progress: Progress,
    run: RunFolder,
    observer: Observer,
    stop_after: int,
    score: str = "val_top1",
    last: int | None = None,
    patience: int | None = None,
    patient_from: int = 0,
    processes: Processes = ALONE,
) -> None:
    """Train `task` from where `progress` stands to the end of the plan.

    Args:
        batches: (epoch, first batch) -> its batches (images, labels, indices) from there on, of
            each the images of this process.
        evaluate: figures after an epoch; `score` among them decides which weights are kept, the
            last ones where it is None.
        keep_best: writes the weights away.
        stop_after: epochs to train; a refit stops where validation found best.
        last: stop an epoch after this many batches (a dry run).
        patience: stop after this many epochs without a better `score`, counted from the epoch
            `patient_from`, before which only the head learns.
        processes: that share the batches; only the first writes.

    Raises:
        RunError: the loss is not finite; names the step, the last good state is on disk.
        Interrupted: by SIGINT or SIGTERM; the state is on disk.
    """
    module = unwrap_model(task.get_trainable_module())
    device = compute.device

    def save() -> None:
        run.write_state(state_of(task, optimizer, scaler, progress, processes))

    with StopSignal() as stop:
        while progress.epoch < stop_after and not out_of_patience(
            progress.rows[patient_from:], score, patience
        ):
            epoch = progress.epoch
            bad_batch = torch.full((), -1, dtype=torch.int64, device=device)
            task.start_epoch(epoch)
            task.train()
            compute.synchronize()
            clock = time.perf_counter()
            read = 0  # images of the optimiser step so far
            # -- one epoch ----------------------------------------------------------------
            for images, labels, *_ in batches(epoch, progress.batch):
                batch = progress.batch
                update = epoch * plan.updates + batch // plan.accumulate
                schedule.step_update(update)
                task.progress = update / (plan.epochs * plan.updates)
                count = len(images)
                everyone, stopping = processes.combine(count, stop.requested)
                if not count:
                    # Too few for all, or none could be read: the others wait for our gradients.
                    images, labels = images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1)
                images = images.to(device, non_blocking=True)
                labels = labels.to(device, non_blocking=True)
                complete = (batch + 1) % plan.accumulate == 0 or batch + 1 == plan.batches
                with nullcontext() if complete else task.no_sync():
                    with compute.autocast():
                        result = task(images, labels)
                    # Gradients are averaged over the processes; the step's are to be summed.
                    share = count * processes.size / plan.group(batch)
                    scaler.scale(result["loss"] * share).backward()
                sums = processes.weighted_sums(result, count)
                finite = torch.isfinite(sums["loss"])
                bad_batch = torch.where((bad_batch < 0) & ~finite, batch, bad_batch)
                _add(progress, sums, everyone)
                read += everyone
                if complete:
                    if read:  # else there is no gradient
                        _mean_over(read, plan.group(batch), optimizer)
                        if plan.clip_grad is not None:
                            scaler.unscale_(optimizer)
                            weights = task.get_clip_parameters()
                            torch.nn.utils.clip_grad_norm_(weights, plan.clip_grad)
                        scaler.step(optimizer)
                        scaler.update()
                        task.after_step(optimizer)
                        task.update_ema(update + 1)
                    optimizer.zero_grad(set_to_none=True)
                    read = 0
                progress.batch += 1
                if progress.batch % CHECK_EVERY == 0 or stopping:
                    _require_finite(bad_batch, module, epoch, run)  # a sync point
                    loss = _mean(progress, "loss")
                    observer.step(epoch, progress.batch, plan.batches, plan.epochs, loss)
                if stopping and progress.batch % plan.accumulate == 0:
                    progress.seconds += time.perf_counter() - clock
                    save()
                    raise Interrupted(
                        f"stopped in epoch {epoch + 1}, batch {progress.batch}; "
                        f"go on with --resume {run.path}"
                    )
                if last is not None and progress.batch >= last:
                    break
            _require_finite(bad_batch, module, epoch, run)  # a sync point
            if not progress.images:
                raise RunError(f"no training image could be read in epoch {epoch + 1}")
            compute.synchronize()
            progress.seconds += time.perf_counter() - clock
            # -- what came of it ----------------------------------------------------------
            task.eval()
            means = {k: _mean(progress, k) for k in progress.totals}
            row = {"epoch": epoch, "train_loss": means.pop("loss"), **task.figures(means)}
            row |= evaluate()
            row["images_per_second"] = progress.images / max(progress.seconds, 1e-9)
            row["lr"] = max(g["lr"] for g in optimizer.param_groups if g.get("lr_scale", 1) <= 1)
            progress.rows.append(row)
            # On a tie the later weights: they have seen more, at a smaller learning rate.
            best, now = progress.best_score, row.get(score)
            if best is None or now is None or now >= best:
                progress.best_epoch, progress.best_score = epoch, now
                keep_best()
            progress.epoch, progress.batch, progress.totals = epoch + 1, 0, {}
            progress.seconds, progress.images = 0.0, 0
            run.write_rows(progress.rows)
            save()
            observer.epoch(row)
            if processes.combine(0, stop.requested)[1]:
                raise Interrupted(
                    f"stopped after epoch {epoch + 1}; go on with --resume {run.path}"
                )
    if progress.epoch < stop_after:
        log.info("stopped early: no better %s for %s epochs", score, patience)


def out_of_patience(rows: list[dict[str, Any]], score: str, patience: int | None) -> bool:
    """Whether `score` has not been better than ever before for `patience` epochs."""
    scores = [row[score] for row in rows if row.get(score) is not None]
    if patience is None or not scores:
        return False
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def _add(progress: Progress, sums: dict[str, Tensor], images: int) -> None:
    """Add a batch's figures, summed over its images, on the device."""
    progress.images += images
    for name, value in sums.items():
        progress.totals[name] = value + progress.totals.get(name, 0)


def _mean_over(read: int, planned: int, optimizer: torch.optim.Optimizer) -> None:
    """Gradients of the mean over the images that were read, where some of a step could not be."""
    if read < planned:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        torch._foreach_mul_([p.grad for p in params if p.grad is not None], planned / read)


def _mean(progress: Progress, name: str) -> float:
    return float(progress.totals[name]) / max(progress.images, 1)


def _require_finite(bad_batch: Tensor, module: nn.Module, epoch: int, run: RunFolder) -> None:
    """Raise RunError for a loss that was not finite, or for weights that are not: the last
    gradient may have spoilt them after a finite loss."""
    batch = int(bad_batch)
    norms = torch._foreach_norm([p.detach() for p in module.parameters()])
    if batch >= 0 or not torch.stack([n.float() for n in norms]).sum().isfinite():
        what, at = ("loss is", f", batch {batch + 1}") if batch >= 0 else ("weights are", "")
        saved = "" if run.dry or not (run.path / "state.pt").exists() else (
            f"; the state before it is kept in {run.path}"
        )  # fmt: skip
        raise RunError(
            f"the {what} not finite at epoch {epoch + 1}{at}{saved}. "
            "Try a smaller --lr, --clip-grad 1, or --precision fp32"
        )
