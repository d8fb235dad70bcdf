"""The parts in which a batch is trained on, so that each fits into memory (`batch_size=auto`).

The images of an optimizer step decide what is learned, so memory does not change them: a batch of
32 that is too large becomes 2 x 16, 4 x 8, ..., whose gradients are added up as with `accumulate`.
Which part fits is found before the first step, by real steps on images of noise: forward, backward
and the optimizer's state, in the precision of the run, with its source and penalties. The steps
double and then close in.

A step that is too large for a GPU, or for an address space with a limit (ulimit -v), fails and is
caught. Linux rather kills a process than lets an allocation fail: there a step is only taken if the
memory that the smaller ones have taken says that it fits.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gtacli.data.base import ImageDataset
from gtacli.data.loader import Batch
from gtacli.errors import GtaError, RunError
from gtacli.runtime import rng
from gtacli.runtime.limits import is_memory_error
from gtacli.runtime.machine import (
    available_memory,
    peak_memory,
    reset_peak_memory,
    resident_memory,
)
from gtacli.training.job import TrainingJob
from gtacli.training.session import Session

log = logging.getLogger(__name__)

HOST_FRACTION = 0.8
"""Fraction of the free memory of a machine that a step may take; other programs need some, too."""
SPARE_FRACTION = 0.05
"""Fraction of a GPU's memory that stays free in a trial, for images of other shapes and views."""


def fit_batch(
    session: Session[Any],
    job: TrainingJob,
    *,
    least: int = 1,
    repeats: int = 1,
    complete_batch: Callable[[Batch], Batch] | None = None,
) -> None:
    """Let the job take its batches in parts that fit into memory, if `fit_memory` is set.

    The part is recorded in run.json, and a resumed run keeps it: its batches are counted in parts.

    Args:
        least: images that every process needs of a part.
        repeats: views of an image in each batch.
        complete_batch: adds what the task needs to a batch.

    Raises RunError if not even the smallest part fits, GtaError for a damaged record.
    """
    config, processes = job.config, job.processes
    if not config.fit_memory:
        return
    sizes = part_sizes(config.batch_size, repeats, least * repeats * processes.size)
    size = _recorded(session, sizes)
    if size is None:
        trial = Trial(job, repeats, complete_batch)
        size = min(processes.gather(trial.largest(sizes) or 0))
        job.compute.reset_peak_memory()
    if not size:
        text = f"the memory is full with {sizes[0]} images at a time; use a smaller `image_size`"
        raise RunError(f"{text}, a smaller model, or `grad_checkpointing`", option="batch_size")
    job.parts = config.batch_size // size
    numbers = {"batch_size": size, "accumulate": config.accumulate * job.parts}
    job.config = config.model_copy(update=numbers)
    session.resolve(numbers)
    log.info(
        "`batch_size=auto`: %d images at a time; an optimizer step has %d x %d",
        size,
        numbers["accumulate"],
        size,
    )


def part_sizes(batch_size: int, repeats: int = 1, least: int = 1) -> list[int]:
    """Return the sizes, ascending, into which a batch can be cut equally.

    Args:
        repeats: every size is a multiple of it.
        least: of a size; the whole batch is in the list in any case.
    """
    sizes = range(repeats, batch_size, repeats)
    return [n for n in sizes if n >= least and batch_size % n == 0] + [batch_size]


def largest_fitting(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Return the largest of ascending sizes that fits; None if none does.

    It is searched by doubling, then by bisection; `fits` is asked about few sizes that do not fit.
    """
    fitting, at = -1, 0
    while fits(sizes[at]):
        fitting = at
        if at == len(sizes) - 1:
            return sizes[at]
        larger = (i for i in range(at + 1, len(sizes)) if sizes[i] >= 2 * sizes[at])
        at = next(larger, len(sizes) - 1)
    while at - fitting > 1:
        middle = (fitting + at) // 2
        if fits(sizes[middle]):
            fitting = middle
        else:
            at = middle
    return sizes[fitting] if fitting >= 0 else None


class Trial:
    """Training steps that leave the job as it was.

    Args:
        repeats, complete_batch: see `fit_batch`.
    """

    def __init__(
        self, job: TrainingJob, repeats: int, complete_batch: Callable[[Batch], Batch] | None
    ) -> None:
        self.job, self.repeats, self.complete_batch = job, repeats, complete_batch
        self._on_host = job.compute.device.type == "cpu"
        self._free = available_memory() if self._on_host else None
        self._start = resident_memory() if self._on_host else 0
        params = (p for group in job.optimizer.param_groups for p in group["params"])
        # The memory of a step without images: the gradients, and two moments of them.
        fixed = 3 * sum(p.numel() * p.element_size() for p in params if p.requires_grad)
        self._taken = [(0, fixed)]  # images of this process, bytes

    def largest(self, sizes: Sequence[int]) -> int | None:
        """Return the largest size of a batch, over all processes, that fits."""
        state = rng.capture()
        try:
            return largest_fitting(sizes, self._fits)
        finally:
            self._clean()
            rng.restore(state)

    def _fits(self, size: int) -> bool:
        images = -(-size // self.repeats // self.job.processes.size) * self.repeats
        if self._free is not None and self.estimate(images) > HOST_FRACTION * self._free:
            return False
        reset_peak_memory()
        fits = self._attempt(images)
        self._clean()
        if fits and self._free is not None:
            taken = max(peak_memory() - self._start, self._taken[-1][1])
            self._taken.append((images, taken))
            fits = taken <= HOST_FRACTION * self._free
        log.debug("a step on %d images %s", images, "fits" if fits else "does not fit")
        return fits

    def estimate(self, images: int) -> float:
        """Return the bytes that a step takes, by the two largest steps before it."""
        if len(self._taken) == 1:
            return 0.0  # unknown; it is the smallest step
        (few, low), (many, high) = self._taken[-2:]
        return high + (high - low) / max(1, many - few) * (images - many)

    def _attempt(self, images: int) -> bool:
        try:
            spare = self._spare()
            self._step(images)
            del spare
            return True
        except Exception as error:
            if not is_memory_error(error):
                raise
        gc.collect()  # outside, where the error no longer holds the tensors
        return False

    def _spare(self) -> torch.Tensor | None:
        device = self.job.compute.device
        if device.type != "cuda":
            return None
        size = int(SPARE_FRACTION * torch.cuda.mem_get_info(device)[1])
        return torch.empty(size, dtype=torch.uint8, device=device)

    def _step(self, images: int) -> None:
        """Take a step that does not change the weights."""
        job, device = self.job, self.job.compute.device
        batch = self._batch(images)
        job.task.train()
        with job.compute.autocast():
            result = job.task(batch)
        result["loss"].backward()
        groups = job.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        try:
            for group in groups:
                group["lr"] = 0.0
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.zero_()
            job.optimizer.step()  # allocates its state
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def _batch(self, images: int) -> Batch:
        generator = torch.Generator().manual_seed(0)
        several = isinstance(self.job.dataset, ImageDataset) and self.job.dataset.multi_label
        shape = (images, 3, *self.job.transform.image_size)
        batch = Batch(
            images=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            labels=torch.zeros((images, 1) if several else images, dtype=torch.int64),
            indices=torch.arange(images) % self.repeats,
            crops=torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0]]).repeat(images, 1),
        )
        device = self.job.compute.device
        batch = batch if self.complete_batch is None else self.complete_batch(batch)
        return batch._replace(images=batch.images.to(device), labels=batch.labels.to(device))

    def _clean(self) -> None:
        self.job.optimizer.zero_grad(set_to_none=True)
        self.job.optimizer.state.clear()
        if self.job.compute.device.type == "cuda":
            torch.cuda.empty_cache()


def _recorded(session: Session[Any], sizes: Sequence[int]) -> int | None:
    """Return the part of the run that is resumed; None for a run that has none yet."""
    if session.config.resume is None:
        return None
    resolved: Any = session.run.read_json("run.json").get("resolved")
    size = resolved.get("batch_size") if isinstance(resolved, Mapping) else None
    if size is not None and (not isinstance(size, int) or session.config.batch_size % size):
        text = f"{session.run.path / 'run.json'} has a `batch_size` of {size!r}, which is no part"
        raise GtaError(f"{text} of {session.config.batch_size}", option="resume")
    return size
