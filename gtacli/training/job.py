"""The parts of a run, loaded and checked before the first step, and the phases it consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from gtacli.config.training import TrainingConfig
from gtacli.data.augment.batched import BatchedAugmentation
from gtacli.data.augment.transforms import Transform
from gtacli.data.base import ImageDataset
from gtacli.data.loader import Batch
from gtacli.data.streams.stream import ImageStream
from gtacli.errors import UsageError
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import Processes
from gtacli.training.image_stores import ImageStores
from gtacli.training.sharding import is_sharded
from gtacli.training.task import Task

Batches = Callable[[int, int], Iterable[Batch]]
"""(epoch, first batch) -> the batches of an epoch from there on, with this process's images."""


class TrainingImages(Protocol):
    """The images that a phase trains on: `RecordedImages` are listed, `StreamedImages` are not."""

    def count_views(self, job: TrainingJob) -> int:
        """Count the views of an epoch."""
        ...

    def load(self, job: TrainingJob, state: Mapping[str, Any] | None) -> LoadedImages:
        """Prepare the batches; those after a saved state are the ones that were to come.

        Raises GtaError if no image can be read, and for a state that does not fit.
        """
        ...


class LoadedImages(Protocol):
    """The batches of a phase.

    Attributes:
        workers: processes that load them.
    """

    @property
    def workers(self) -> int: ...

    def batches(self, epoch: int, first: int) -> Iterable[Batch]:
        """Return the batches of an epoch from `first` on, with this process's images."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what a saved state needs, beside epoch and batch; all processes call it."""
        ...

    def close(self) -> None:
        """End what loads the batches."""
        ...


@dataclass(kw_only=True)
class TrainingJob:
    """The parts that every training run has; commands add their networks.

    Attributes:
        fingerprint: of the weights that the run starts from.
        parts: batches of `config.batch_size` into which one batch was cut, see `batch_parts`.
    """

    config: TrainingConfig
    compute: Compute
    processes: Processes
    dataset: ImageDataset | ImageStream
    transform: Transform | BatchedAugmentation
    task: Task
    optimizer: torch.optim.Optimizer
    stores: ImageStores
    fingerprint: str
    parts: int = 1

    @property
    def sharded(self) -> bool:
        """True if the processes share the weights from the first step on."""
        return is_sharded(self.config, self.processes)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One training within a run: its images, its length, and what happens around the steps.

    Attributes:
        images: what is trained on.
        epochs: length of the schedule.
        warmup: epochs in which the learning rate rises.
        evaluate: epoch -> metrics; `val_top1` or `val_map` among them decides which epoch's
            weights are saved, without it the last one's.
        save_weights: writes the files of the model.
        count_scored: counts the images that `val_top1` was measured on, or their labels.
        stop_after: epochs to train, where that is less than the schedule.
        max_batches: batches of an epoch at most (for a dry run).
        freeze_epochs: epochs at the start in which only the head learns; patience counts from
            there.
        patience: stop after so many epochs without a better one.
        complete_batch: adds what the task needs to a batch.
        before_training: called with the batches before the first step, also of a resumed run.
    """

    images: TrainingImages
    epochs: int
    warmup: float
    evaluate: Callable[[int], Mapping[str, Any]]
    save_weights: Callable[[], None]
    stop_after: int
    count_scored: Callable[[], int] = int
    max_batches: int | None = None
    freeze_epochs: int = 0
    patience: int | None = None
    complete_batch: Callable[[Batch], Batch] | None = None
    before_training: Callable[[Batches], None] | None = None


def require_shared_batch(batch_size: int, processes: Processes, repeats: int = 1) -> None:
    """Raise UsageError unless every process gets an image of each batch, in `repeats` views."""
    if batch_size < processes.size * repeats:
        text = f"{batch_size} images a step are too few for {processes.size} processes to share"
        raise UsageError(text, option="batch_size")
