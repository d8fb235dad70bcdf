"""The images that a phase trains on, listed as records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gtacli.data.base import Record
from gtacli.data.loader import Batch, make_loader
from gtacli.data.store import ImageStore
from gtacli.runtime.devices import choose_workers
from gtacli.training.image_stores import prepare_training
from gtacli.training.job import TrainingJob


@dataclass(frozen=True, kw_only=True)
class RecordedImages:
    """Images that are listed, and come in another order in each epoch.

    Attributes:
        records: the images.
        views: number of augmentations of each image over the whole training; None: one an epoch.
        repeats: views of an image in each batch.
        drop_last: whether an incomplete last batch is skipped, so that all have one shape.
        balanced: whether every class is drawn equally often.
    """

    records: tuple[Record, ...]
    views: int | None = None
    repeats: int = 1
    drop_last: bool = False
    balanced: bool = False

    def count_views(self, job: TrainingJob) -> int:
        """Count the views of an epoch."""
        views = len(self.records) * self.repeats
        if self.drop_last:
            whole = job.config.batch_size * job.parts
            views = max(views - views % whole, min(views, whole))
        return views

    def load(self, job: TrainingJob, state: Mapping[str, Any] | None) -> LoadedRecords:
        """Decode what is cached. Raises GtaError if no image can be read."""
        store = job.stores.get(self.records, job.transform.load_size, training=True)
        prepare_training(store)
        workers = choose_workers(job.config.workers, job.compute.device, store.cached)
        return LoadedRecords(self, job, store, workers)


@dataclass(frozen=True)
class LoadedRecords:
    """The batches of `RecordedImages`, which can begin anywhere in any epoch.

    Attributes:
        workers: processes that load them.
    """

    images: RecordedImages
    job: TrainingJob
    store: ImageStore
    workers: int

    def batches(self, epoch: int, first: int) -> Iterable[Batch]:
        """Return the batches of an epoch from `first` on, with this process's images."""
        images, job, processes = self.images, self.job, self.job.processes
        return make_loader(
            self.store,
            job.transform,
            job.config.batch_size,
            train=True,
            seed=job.config.seed,
            epoch=epoch,
            start_batch=first,
            workers=self.workers,
            drop_last=images.drop_last,
            parts=job.parts,
            pin_memory=job.compute.device.type == "cuda",
            shard=(processes.rank, processes.size),
            views=images.views,
            repeats=images.repeats,
            balanced=images.balanced,
        )

    def state(self) -> dict[str, Any]:
        """Return nothing: a batch follows from its number."""
        return {}

    def close(self) -> None:
        """Do nothing: a loader ends with its epoch."""
