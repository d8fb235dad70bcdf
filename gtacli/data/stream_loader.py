"""Batches of an endless stream of shards, the same for any number of workers, resumed or not.

Image k of the stream is the next one of lane k mod L (see `gtacli.data.streams.lanes`), and batch b
has the images b S ... (b + 1) S - 1. Several processes share each batch: process r of n loads its
images r, r + n, ..., and reads the lanes that these are of, which are its own if L is a multiple of
n. Its workers have different lanes, and each loads its images of every batch.

Views are drawn from (seed, epoch, place in the epoch). Where the stream goes on is known after
every batch (`StreamLoader.places`), so that neither a run's end nor its processes and workers
change what comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gtacli.data.augment.batched import BatchedAugmentation, CroppedBatch
from gtacli.data.augment.transforms import RelativeCrop, Transform
from gtacli.data.loader import Batch
from gtacli.data.store import ImageNotes
from gtacli.data.streams.lanes import Lane, LanePlace
from gtacli.data.streams.stream import ImageStream
from gtacli.data.workers import load_in_workers, start_worker
from gtacli.errors import GtaError, RunError
from gtacli.images.decode import EncodedImage, ImageError
from gtacli.images.loading import load_for_training
from gtacli.runtime.prefetch import ahead

Digest = Callable[[bytes], bytes]
_DIGEST = 16  # bytes
_MASK = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """The batches of a training on a stream, see `StreamLoader`.

    Attributes:
        stream: the shards.
        transform: creates the views.
        interpolation: of the resize after decoding.
        seed: of the order and the views.
        lanes: their number.
        images: images of a batch, of all processes.
        batches: of an epoch.
        epochs: number of epochs, after which the stream ends.
        repeats: views of an image in its batch.
        shard: (r, n): process r of n.
        digest: returns the digest of an image's file, for `Batch.contents`; None: there are none.
    """

    stream: ImageStream
    transform: Transform | BatchedAugmentation
    interpolation: str
    seed: int
    lanes: int
    images: int
    batches: int
    epochs: int
    repeats: int = 1
    shard: tuple[int, int] = (0, 1)
    digest: Digest | None = None

    def own_lanes(self) -> list[int]:
        """Return the lanes that have images of this process."""
        first, step = self.shard
        starts = range(0, self.lanes * self.images // gcd(self.lanes, self.images), self.images)
        own = range(first, self.images, step)
        return sorted({(start + place) % self.lanes for start in starts for place in own})


class StreamLoader:
    """The batches of a training from one of them on, over the ends of epochs.

    Args:
        plan: what they are.
        places: where the lanes of this process begin, by number; a lane that is not among them
            begins at its first shard.
        first: number of the first batch, counted over all epochs.
        notes: of what cannot be read.
        workers: processes that load images. More than the process has lanes work as threads.
        pin_memory: pin the batches.
        context: start method of the workers.

    Attributes:
        places: of the lanes of this process after the last batch that was yielded.
        position: number of the next batch.

    What cannot be read makes a batch smaller.
    """

    def __init__(
        self,
        plan: StreamPlan,
        places: dict[int, LanePlace],
        first: int,
        notes: ImageNotes,
        workers: int = 0,
        pin_memory: bool = False,
        context: str | None = None,
    ) -> None:
        self.plan, self.position, self._notes = plan, first, notes
        self._first = first
        self.places = {lane: places.get(lane, LanePlace(lane)) for lane in plan.own_lanes()}
        self._workers = min(workers, len(self.places))
        self._threads = workers // self._workers if self._workers else 0
        self._pin = pin_memory and torch.cuda.is_available()
        self._context = context

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises GtaError where shards have no images, or are not the ones that a place is in;
        RunError after the first batch.
        """
        for pieces in load_in_workers(self._load_with, self._workers, self._context):
            for piece in pieces:
                if piece.error is not None:
                    kind = GtaError if self.position == self._first else RunError
                    raise kind(piece.error.message, option=piece.error.option)
                for name, reason in piece.failed:
                    self._notes.note(name, reason)
                for name, line in piece.damaged:
                    self._notes.note_damaged(name, line)
                self.places.update(piece.places)
            self.position += 1
            if self.position % self.plan.batches == 0:
                self._notes.summarize()
            yield self._merge([piece for piece in pieces if len(piece.order)] or pieces[:1])

    def _load_with(self, workers: int) -> Iterator[tuple[_Piece, ...]]:
        loaded = DataLoader(
            _Pieces(self.plan, dict(self.places), self.position, self._threads),
            batch_size=None,  # an item is a piece
            num_workers=workers,
            multiprocessing_context=self._context if workers else None,
            generator=torch.Generator(),  # the default would draw from the global generator
            worker_init_fn=start_worker if workers else None,
        )
        pieces = iter(loaded)  # of the workers in turn
        return zip(*[pieces] * max(1, workers), strict=True)

    def _merge(self, pieces: Sequence[_Piece]) -> Batch:
        """Put the pieces of a batch together, in the order of the stream."""
        first, order = pieces[0].batch, torch.cat([piece.order for piece in pieces])
        images = [self._finish(piece) for piece in pieces]
        if len(pieces) == 1 and not self._pin:
            return first._replace(images=images[0])
        target = order.argsort().argsort()
        on_host = images[0].device.type == "cpu"
        shape = (len(order), *images[0].shape[1:])
        whole = images[0].new_empty(shape, pin_memory=self._pin and on_host)
        start = 0
        for part in images:
            whole[target[start : start + len(part)].to(whole.device)] = part
            start += len(part)
        chosen = order.argsort()
        batches = [piece.batch for piece in pieces]
        labels = torch.cat([batch.labels for batch in batches])[chosen]
        indices = torch.cat([batch.indices for batch in batches])[chosen]
        crops = torch.cat([batch.crops for batch in batches])[chosen]
        contents = None
        if first.contents is not None:
            parts = [batch.contents for batch in batches if batch.contents is not None]
            contents = torch.cat(parts)[chosen]
        return Batch(whole, labels, indices, crops, contents=contents)

    def _finish(self, piece: _Piece) -> Tensor:
        """Return the views of a piece, which a device computes where it has only crops."""
        if piece.cropped is None:
            return piece.batch.images
        assert isinstance(self.plan.transform, BatchedAugmentation)
        return self.plan.transform.finish(piece.cropped)


class _Piece(NamedTuple):
    """The part of a batch that a worker has loaded."""

    batch: Batch
    order: Tensor
    """int64: the place of each view in the whole batch, ascending."""
    failed: list[tuple[str, str]]
    damaged: list[tuple[str, str]]
    places: dict[int, LanePlace]
    cropped: CroppedBatch | None = None
    error: GtaError | None = None
    """Ends the stream."""


@dataclass(eq=False)
class _Pieces(IterableDataset[_Piece]):
    """A worker's parts of the batches, from the first one on; workers receive it pickled."""

    plan: StreamPlan
    places: dict[int, LanePlace]
    first: int
    threads: int

    def __iter__(self) -> Iterator[_Piece]:
        info, plan = get_worker_info(), self.plan
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        own = sorted(self.places)[worker::workers]
        lanes = {
            lane: Lane(plan.stream, plan.seed, lane, plan.lanes, self.places[lane]) for lane in own
        }
        try:
            for number in range(self.first, plan.batches * plan.epochs):
                yield self._load(number, lanes)
        except GtaError as error:
            yield _Views(plan, 0, 0).piece(lanes, error)
        finally:
            for lane in lanes.values():
                lane.close()

    def _load(self, number: int, lanes: dict[int, Lane]) -> _Piece:
        """Take the next image of each lane until the batch is complete; decode this process's."""
        plan, (first, step) = self.plan, self.plan.shard
        start, encoded = number * plan.images, list[EncodedImage]()
        places: list[int] = []
        for place in range(plan.images):
            lane = lanes.get((start + place) % plan.lanes)
            image = None if lane is None else lane.take()
            if image is not None and place % step == first:
                encoded.append(image)
                places.append(place)
        epoch, within = divmod(number, plan.batches)
        views = _Views(plan, epoch, within * plan.images)
        threads = self.threads if self.threads > 1 else 0
        decoded = ahead(views.decode, encoded, 2 * threads, threads)
        for place, image, pixels in zip(places, encoded, decoded, strict=True):
            views.add(place, image, pixels)
        return views.piece(lanes)


class _Views:
    """The views of a piece.

    Args:
        plan, epoch: of the batch.
        start: the place of its first image in the epoch.
    """

    def __init__(self, plan: StreamPlan, epoch: int, start: int) -> None:
        self._plan, self._epoch, self._start = plan, epoch, start
        self._views: list[Any] = []
        self._crops: list[RelativeCrop] = []
        self._order: list[int] = []
        self._contents: list[bytes] = []
        self._failed: list[tuple[str, str]] = []
        self._damaged: list[tuple[str, str]] = []

    def decode(self, image: EncodedImage) -> Tensor | str:
        """Return the pixels at the loading size, or why they cannot be read; in any thread."""
        plan = self._plan

        def tell(line: str) -> None:
            self._damaged.append((image.name, line))

        try:
            cover = plan.transform.load_size
            return load_for_training(image, cover, plan.interpolation, tell)
        except ImageError as error:
            return str(error)

    def add(self, place: int, image: EncodedImage, pixels: Tensor | str) -> None:
        """Add the views of an image at its place in the batch."""
        plan = self._plan
        if isinstance(pixels, str):
            self._failed.append((image.name, pixels))
            return
        content = None if plan.digest is None else plan.digest(image.data)
        for number in range(place * plan.repeats, (place + 1) * plan.repeats):
            index = self._start * plan.repeats + number
            rng = np.random.default_rng((plan.seed & _MASK, self._epoch, index))
            view, crop = plan.transform.make_view(pixels, rng)
            self._views.append(view)
            self._crops.append(crop)
            self._order.append(number)
            if content is not None:
                self._contents.append(content)

    def piece(self, lanes: dict[int, Lane], error: GtaError | None = None) -> _Piece:
        """Return the piece, with what the lanes could not read."""
        transform, digest = self._plan.transform, self._plan.digest
        for lane in lanes.values():
            self._failed += lane.unreadable
            lane.unreadable = []
        order = torch.tensor(self._order, dtype=torch.int64)
        batched = isinstance(transform, BatchedAugmentation)
        empty = torch.empty(0, 3, *transform.image_size, dtype=torch.uint8)
        contents = np.frombuffer(bytearray().join(self._contents), np.uint8)
        batch = Batch(
            images=torch.stack(self._views) if self._views and not batched else empty,
            labels=torch.zeros(len(order), dtype=torch.int64),
            indices=order + self._start * self._plan.repeats,
            crops=torch.tensor(self._crops, dtype=torch.float32).view(-1, 5),
            contents=None if digest is None else torch.from_numpy(contents).view(-1, _DIGEST),
        )
        places = {number: lane.place for number, lane in lanes.items()}
        cropped = (
            transform.pack(self._views) if isinstance(transform, BatchedAugmentation) else None
        )
        return _Piece(batch, order, self._failed, sorted(self._damaged), places, cropped, error)
