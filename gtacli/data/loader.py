"""Batches of an epoch, the same for any number of workers, cached or not, resumed or not.

The order of the images is a permutation drawn from (seed, epoch), and the augmentation of an image
is drawn from (seed, epoch, index). So an epoch can start at any batch, and torch's global random
state is neither read nor changed. Several processes share each batch: process r of n loads its
images r, r + n, ..., so that together they load what one process would.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gtacli.data.augment.batched import BatchedAugmentation, CroppedBatch
from gtacli.data.augment.transforms import RelativeCrop, Transform
from gtacli.data.store import ImageStore
from gtacli.data.workers import load_in_workers, start_worker
from gtacli.images.decode import ImageError

__all__ = ["Batch", "ImageStore", "Loader", "make_loader"]

_MASK = (1 << 64) - 1


class Batch(NamedTuple):
    """A batch of views with their labels."""

    images: Tensor
    """uint8 (B, 3, h, w)."""
    labels: Tensor
    """int64 (B,); of images with several labels (B, M), see `gtacli.data.labels`."""
    indices: Tensor
    """int64 (B,): indices of the store's records, or places in a stream's epoch; see `make_loader`
    for `repeats`."""
    crops: Tensor
    """fp32 (B, 5): x0, y0, x1, y1 of each view relative to its image, and 1 if it is mirrored (see
    `transforms.RelativeCrop`)."""
    maps: Tensor | None = None
    """(B, mh, mw) object maps, bytes or floats in [0, 1]; added by a pre-training."""
    contents: Tensor | None = None
    """uint8 (B, 16): digests of the images' files; of a stream where there are maps."""
    stand_in: bool = False
    """True for one blank image in place of an empty batch, which must not count."""


class _LoadedBatch(NamedTuple):
    batch: Batch
    failed: list[tuple[int, str]]
    damaged: list[tuple[int, str]]
    cropped: CroppedBatch | None = None
    """Crops from which the training process computes the images, on a device."""


class Loader:
    """The batches of one epoch from `start_batch` on; created by `make_loader`.

    `position` is the number of the next batch; pass it as `start_batch` to continue there. An
    unreadable image is omitted from its batch and noted in `store.skipped`, so a batch may be
    smaller than requested, even empty, but no batch is skipped.
    """

    def __init__(
        self,
        epoch: "_Epoch",
        start_batch: int,
        workers: int,
        pin_memory: bool,
        context: str | None,
    ) -> None:
        self._epoch = epoch
        self._start = start_batch
        self._workers = workers
        self._pin = pin_memory and torch.cuda.is_available()
        self._context = context
        self.position = start_batch

    def __len__(self) -> int:
        return max(0, len(self._epoch) - self._start)

    def __iter__(self) -> Iterator[Batch]:
        store = self._epoch.store
        store.prepare()
        self.position = self._start
        workers = min(self._workers, len(self))
        for item in load_in_workers(self._load_with, workers, self._context):
            self.position += 1
            for index, reason in item.failed:
                store.skip(index, reason)
            for index, line in item.damaged:
                store.note_damaged(store.records[index].key, line)
            if item.cropped is None:
                yield item.batch
            else:
                assert isinstance(self._epoch.transform, BatchedAugmentation)
                yield item.batch._replace(images=self._epoch.transform.finish(item.cropped))
        store.summarize()

    def _load_with(self, workers: int) -> "DataLoader[_LoadedBatch]":
        return DataLoader(
            self._epoch,
            batch_size=None,  # an item is a batch
            sampler=range(self.position, len(self._epoch)),
            num_workers=workers,
            pin_memory=self._pin,
            multiprocessing_context=self._context if workers else None,
            generator=torch.Generator(),  # the default would draw from the global generator
            worker_init_fn=start_worker if workers else None,
        )


def make_loader(
    store: ImageStore,
    transform: Transform | BatchedAugmentation,
    batch_size: int,
    *,
    train: bool,
    seed: int = 0,
    epoch: int = 0,
    start_batch: int = 0,
    workers: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
    context: str | None = None,
    shard: tuple[int, int] = (0, 1),
    views: int | None = None,
    repeats: int = 1,
    parts: int = 1,
    balanced: bool = False,
) -> Loader:
    """Create the batches of one epoch.

    Args:
        store: the images.
        transform: creates the views.
        batch_size: views per batch; a multiple of `repeats`.
        train: shuffle and augment.
        seed, epoch: determine order and augmentation.
        start_batch: first batch to load.
        workers: processes that load images.
        drop_last: omit an incomplete last batch, unless it is the only one.
        pin_memory: pin the batches, if CUDA is available.
        context: start method of the workers (fork, spawn); default: the platform's.
        shard: (r, n) loads the r-th of n parts of every batch; some may be empty.
        views: number of different augmentations per image, used in turn by epoch; None: no limit.
        repeats: views per image and batch; `indices` are then index * repeats + number of the view.
        parts: batches that are one for `drop_last`.
        balanced: draw every class equally often, as many images as there are; those of a small
            class come several times, in different views.
    """
    order_seed = (seed & _MASK, epoch)
    view_seed = (seed & _MASK, epoch % views if views else epoch)
    images = batch_size // repeats
    batches = _Epoch(
        store, transform, images, repeats, train, shard, order_seed, view_seed, drop_last, parts,
        balanced,
    )  # fmt: skip
    return Loader(batches, start_batch, workers, pin_memory, context)


@dataclass(eq=False)
class _Epoch(Dataset[_LoadedBatch]):
    """The batches of one epoch by number, see `make_loader`; workers receive it pickled."""

    store: ImageStore
    transform: Transform | BatchedAugmentation
    images: int
    """Images per batch."""
    repeats: int
    train: bool
    shard: tuple[int, int]
    seed: tuple[int, int]
    view_seed: tuple[int, int]
    drop_last: bool
    parts: int = 1
    balanced: bool = False

    def __post_init__(self) -> None:
        self.order, self.before = self._order()
        full = len(self.store) // (self.images * self.parts) * self.parts
        self.count = full if self.drop_last and full else -(-len(self.store) // self.images)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> _LoadedBatch:
        transform = self.transform
        views: list[Any] = []
        crops: list[RelativeCrop] = []
        view_indices: list[int] = []
        failed: list[tuple[int, str]] = []
        start, (first, step) = number * self.images, self.shard
        mine = slice(start + first, start + self.images, step)
        drawn = zip(self.order[mine].tolist(), self.before[mine].tolist(), strict=True)
        for index, before in drawn:
            again = (before,) if before else ()  # an image's first view is a plain epoch's
            try:
                image = self.store.get(index)
            except ImageError as error:
                failed.append((index, str(error)))
                continue
            for view_index in range(index * self.repeats, (index + 1) * self.repeats):
                seed = (*self.view_seed, view_index, *again)
                rng = np.random.default_rng(seed) if self.train else None
                view, crop = transform.make_view(image, rng)
                views.append(view)
                crops.append(crop)
                view_indices.append(view_index)
        indices = torch.tensor(view_indices, dtype=torch.int64)
        cropped = transform.pack(views) if isinstance(transform, BatchedAugmentation) else None
        empty = torch.empty(0, 3, *transform.image_size, dtype=torch.uint8)
        images = torch.stack(views) if views and cropped is None else empty
        boxes = torch.tensor(crops, dtype=torch.float32).view(-1, 5)
        labels = self.store.labels[indices // self.repeats]
        damaged = self.store.take_damaged()
        return _LoadedBatch(Batch(images, labels, indices, boxes), failed, damaged, cropped)

    def _order(self) -> tuple[Tensor, Tensor]:
        """Return the images of the epoch, and how often each has come before."""
        count = len(self.store)
        if not self.train:
            return torch.arange(count), torch.zeros(count, dtype=torch.int64)
        state = np.random.SeedSequence(self.seed).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state) >> 1)
        if not self.balanced:
            return torch.randperm(count, generator=generator), torch.zeros(count, dtype=torch.int64)
        return draw_balanced(self.store.labels, generator)


def draw_balanced(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw as many images as there are, of every class equally many but for one.

    A class's images come in random order, all of them before one comes again.

    Args:
        labels: (N,) int64, of at least one image.

    Returns: (N,) numbers of images, and (N,) how often each has come before.
    """
    count = len(labels)
    present = labels.unique()
    share, more = divmod(count, len(present))
    lucky = set(present[torch.randperm(len(present), generator=generator)[:more]].tolist())
    numbers = []
    for label in present.tolist():
        own = (labels == label).nonzero().flatten()
        wanted = share + (label in lucky)
        rounds = -(-wanted // len(own))
        drawn = [own[torch.randperm(len(own), generator=generator)] for _ in range(rounds)]
        numbers.append(torch.cat(drawn)[:wanted] if drawn else own[:0])
    epoch = torch.cat(numbers)[torch.randperm(count, generator=generator)]
    return epoch, _count_before(epoch)


def _count_before(numbers: Tensor) -> Tensor:
    """Return how often each of N numbers has come before, (N,)."""
    places = torch.argsort(numbers, stable=True)
    counts = numbers.unique(return_counts=True)[1]
    before = torch.empty_like(numbers)
    before[places] = torch.cat([torch.arange(count) for count in counts.tolist()])
    return before
