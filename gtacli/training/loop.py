"""The training loop, shared by all commands that train.

A step never waits for the device: metrics stay on it and are read every `CHECK_EVERY` batches,
together with the check for NaN. The state is saved after every epoch and on an interruption.
An epoch's files are one transaction: the state comes first, and whoever continues from it writes
the others again, which follow from it.
Batches are a function of (seed, epoch, position), so a resumed run gets the same ones as an
uninterrupted run.

Several processes share every batch. Each multiplies its loss by its fraction of the images, so that
the step equals that of the whole batch; all get the same metrics and take the same decisions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor

from gtacli.data.loader import Batch
from gtacli.errors import Interrupted, RunError
from gtacli.runtime.interrupts import StopSignal
from gtacli.runtime.run_files import STATE_FILE
from gtacli.runtime.run_folder import RunFolder
from gtacli.runtime.tensor_parts import own_part
from gtacli.training.job import Batches, Phase, TrainingJob
from gtacli.training.selection import SCORES, score_of
from gtacli.training.state import Progress, get_state

log = logging.getLogger(__name__)

CHECK_EVERY = 20


class Observer(Protocol):
    """A display of a run's progress: a bar, a log. Called rarely, with plain numbers."""

    def step(self, epoch: int, batch: int, batches: int, epochs: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


class SilentObserver:
    """An observer that shows nothing."""

    def step(self, epoch: int, batch: int, batches: int, epochs: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Plan:
    """The numbers of batches and optimizer steps of a training.

    Attributes:
        epochs: length of the schedule.
        images: images of an epoch.
        batch_size: images of a batch, over all processes; an epoch's last one may be smaller.
        accumulate: batches to an optimizer step, called an update here.
    """

    epochs: int
    images: int
    batch_size: int
    accumulate: int = 1

    @property
    def batches(self) -> int:
        """Number of batches of an epoch."""
        return -(-self.images // self.batch_size)

    @property
    def updates(self) -> int:
        """Number of updates of an epoch."""
        return -(-self.batches // self.accumulate)

    def ends_update(self, batch: int) -> bool:
        """Return whether the optimizer steps after this batch of an epoch."""
        return (batch + 1) % self.accumulate == 0 or batch + 1 == self.batches

    def images_of_update(self, batch: int) -> int:
        """Count the images of all batches of the update that `batch` belongs to.

        A batch is weighted by its fraction of them, so that accumulated batches are one big batch.
        """
        whole = self.batch_size * self.accumulate
        return min(whole, self.images - batch // self.accumulate * whole)


@dataclass
class Trainer:
    """The training of a phase, from where `progress` stands to its end.

    Of several processes only the first one writes.
    """

    job: TrainingJob
    phase: Phase
    plan: Plan
    schedule: Scheduler
    scaler: torch.amp.GradScaler
    batches: Batches
    images_state: Callable[[], Mapping[str, Any]]
    progress: Progress
    run: RunFolder
    observer: Observer

    def __post_init__(self) -> None:
        self.task, self.optimizer = self.job.task, self.job.optimizer
        self.compute, self.processes = self.job.compute, self.job.processes

    def fit(self) -> None:
        """Train.

        Raises:
            RunError: the loss is not finite; the last good state is in the run folder.
            Interrupted: by SIGINT or SIGTERM; the state has been saved.
        """
        progress, limit = self.progress, self.phase.max_batches
        with StopSignal() as stop:
            if progress.epoch and not progress.batch:
                self._write_results()  # the run may have ended between its state and these
            while not self._is_done():
                self._start_epoch()
                for batch in self.batches(progress.epoch, progress.batch):
                    stopping = self._train_batch(batch, stop.requested)
                    if stopping or progress.batch % CHECK_EVERY == 0:
                        self._check_and_report()
                    if stopping and progress.batch % self.plan.accumulate == 0:
                        self._save_and_stop()
                    if limit is not None and progress.batch >= limit:
                        break
                self._end_epoch()
                if self.processes.combine(0, stop.requested)[1]:
                    raise Interrupted(self._how_to_resume(f"after epoch {progress.epoch}"))

    def _is_done(self) -> bool:
        """Return whether all epochs are trained or patience has run out."""
        progress, phase = self.progress, self.phase
        if progress.epoch >= phase.stop_after:
            return True
        rows = progress.rows[phase.freeze_epochs :]
        if not out_of_patience(rows, phase.patience):
            return False
        score = next(key for key in SCORES if rows[-1].get(key) is not None)
        log.info("stopped early: no better %s for %s epochs", score, phase.patience)
        return True

    def _start_epoch(self) -> None:
        self.task.start_epoch(self.progress.epoch)
        self.task.train()
        # Kept on the device: the first batch of this epoch whose loss was not finite, or -1.
        self._bad_batch = torch.full((), -1, dtype=torch.int64, device=self.compute.device)
        self._update_images = 0  # images read in the current update
        self.compute.synchronize()
        self._clock = time.perf_counter()

    def _train_batch(self, batch: Batch, stop: bool) -> bool:
        """Add the gradient of a batch; update the weights where it is the last one of an update.

        Returns: whether any process wants to stop.
        """
        task, plan, progress = self.task, self.plan, self.progress
        number = progress.batch
        update = progress.epoch * plan.updates + number // plan.accumulate
        self.schedule.step_update(update)
        task.update = update
        task.progress = update / (plan.epochs * plan.updates)
        count = len(batch.images)
        everyone, stopping = self.processes.combine(count, stop)
        # Too few images for all, or none readable: the other processes wait for our gradients.
        batch = self._to_device(batch if count else stand_in(batch))
        ends_update = plan.ends_update(number)
        with nullcontext() if ends_update else task.no_sync():
            with self.compute.autocast():
                result = task(batch)
            # DDP averages gradients over the processes; those of a step have to be summed.
            weight = count * self.processes.size / plan.images_of_update(number)
            self.scaler.scale(result["loss"] * weight).backward()
        self._add_metrics(result, count, everyone)
        self._update_images += everyone
        if ends_update:
            self._update_weights(update)
        progress.batch += 1
        return stopping

    def _to_device(self, batch: Batch) -> Batch:
        device = self.compute.device
        return batch._replace(
            images=batch.images.to(device, non_blocking=True),
            labels=batch.labels.to(device, non_blocking=True),
        )

    def _add_metrics(self, result: Mapping[str, Tensor], count: int, everyone: int) -> None:
        """Add a batch's scalar results, summed over its images, on the device."""
        progress = self.progress
        sums = self.processes.weighted_sums(result, count)
        finite = torch.isfinite(sums["loss"])
        bad = self._bad_batch
        self._bad_batch = torch.where((bad < 0) & ~finite, progress.batch, bad)
        progress.images += everyone
        for name, value in sums.items():
            progress.totals[name] = value + progress.totals.get(name, 0)

    def _update_weights(self, update: int) -> None:
        """Take an optimizer step, unless no image of the update could be read."""
        task, optimizer, clip_grad = self.task, self.optimizer, self.job.config.clip_grad
        if self._update_images:
            planned = self.plan.images_of_update(self.progress.batch)
            _rescale_gradients(optimizer, planned, self._update_images)
            if clip_grad is not None:
                self.scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(task.unwrapped.parameters(), clip_grad)
            self.scaler.step(optimizer)
            self.scaler.update()
            task.after_step(optimizer)
            task.update_ema(update + 1)
        optimizer.zero_grad(set_to_none=True)
        self._update_images = 0

    def _check_and_report(self) -> None:
        progress, plan = self.progress, self.plan
        self._require_finite()
        loss = progress.mean("loss")
        self.observer.step(progress.epoch, progress.batch, plan.batches, plan.epochs, loss)

    def _save_and_stop(self) -> None:
        """Save the state within an epoch and raise Interrupted."""
        progress = self.progress
        progress.seconds += time.perf_counter() - self._clock
        self._save_state()
        place = f"in epoch {progress.epoch + 1}, batch {progress.batch}"
        raise Interrupted(self._how_to_resume(place))

    def _end_epoch(self) -> None:
        """Evaluate, save the state, and save the weights unless they are clearly worse."""
        task, progress, epoch = self.task, self.progress, self.progress.epoch
        self._require_finite()
        if not progress.images:
            raise RunError(f"no training image could be read in epoch {epoch + 1}")
        self.compute.synchronize()
        progress.seconds += time.perf_counter() - self._clock
        task.eval()
        means = {name: progress.mean(name) for name in progress.totals}
        row = {"epoch": epoch, "train_loss": means.pop("loss"), **task.epoch_metrics(means)}
        row |= self.phase.evaluate(epoch)
        row["images_per_second"] = progress.images / max(progress.seconds, 1e-9)
        groups = self.optimizer.param_groups
        backbone = [g for g in groups if not g.get("head")]
        row["lr"] = max(g["lr"] for g in backbone or groups)
        progress.end_epoch(row, self.phase.count_scored())
        self._save_state()
        self._write_results()
        self.observer.epoch(row)

    def _write_results(self) -> None:
        """Write what follows from the state at the end of an epoch: metrics, and the weights."""
        if self.progress.best_epoch == self.progress.epoch - 1:
            self.phase.save_weights()
        self.run.write_rows(self.progress.rows)

    def _save_state(self) -> None:
        parts = (self.task, self.optimizer, self.scaler, self.progress, self.processes)
        self.run.write_state({**get_state(*parts), **self.images_state()})

    def _how_to_resume(self, place: str) -> str:
        return f"stopped {place}; continue with `resume` {self.run.path}"

    def _require_finite(self) -> None:
        """Raise RunError if a loss of this epoch was not finite, or if a weight is not.

        The last gradient may have spoiled the weights after a finite loss.
        """
        bad_batch = int(self._bad_batch)  # waits for the device
        weights = [own_part(p.detach()) for p in self.task.unwrapped.parameters()]
        norm = torch.stack([n.float() for n in torch._foreach_norm(weights)]).sum()
        if bad_batch < 0 and self.processes.all_reduce(norm).isfinite():
            return
        text = f"the weights are not finite in epoch {self.progress.epoch + 1}"
        if bad_batch >= 0:
            epoch = self.progress.epoch + 1
            text = f"the loss is not finite in epoch {epoch}, batch {bad_batch + 1}"
        if not self.run.dry and (self.run.path / STATE_FILE).exists():
            text += f"; the state before it is in {self.run.path}"
        raise RunError(f"{text}. Try a smaller `lr`, `clip_grad=1`, or `precision=fp32`")


def out_of_patience(rows: list[dict[str, Any]], patience: int | None) -> bool:
    """Return whether the score has not exceeded its best value for `patience` epochs."""
    scores = [score for row in rows if (score := score_of(row)) is not None]
    if patience is None or not scores:
        return False
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def stand_in(batch: Batch) -> Batch:
    """Return one blank image in place of an empty batch."""
    return Batch(
        images=batch.images.new_zeros(1, *batch.images.shape[1:]),
        labels=batch.labels.new_zeros(1, *batch.labels.shape[1:]),
        indices=batch.indices.new_zeros(1),
        crops=batch.crops.new_tensor([[0.0, 0.0, 1.0, 1.0, 0.0]]),
        maps=None if batch.maps is None else batch.maps.new_zeros(1, *batch.maps.shape[1:]),
        stand_in=True,
    )


def _rescale_gradients(optimizer: torch.optim.Optimizer, planned: int, read: int) -> None:
    """Make gradients the mean over the images that were read, if some could not be."""
    if read < planned:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        torch._foreach_mul_([p.grad for p in params if p.grad is not None], planned / read)
