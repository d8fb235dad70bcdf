"""The images that a phase trains on, read from shards as an endless stream."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from gtacli.config.base import StrictModel, read_content
from gtacli.data.loader import Batch
from gtacli.data.store import ImageNotes
from gtacli.data.stream_loader import Digest, StreamLoader, StreamPlan
from gtacli.data.streams.lanes import LanePlace, count_lanes
from gtacli.data.streams.stream import ImageStream
from gtacli.runtime.devices import choose_workers
from gtacli.runtime.strict_json import parse_json
from gtacli.training.job import TrainingJob
from gtacli.training.state import fitting

_ENTRY = "stream"
_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")]


class _SavedPlace(StrictModel):
    """A place in a lane, see `gtacli.data.streams.lanes.LanePlace`."""

    shard: _Count
    start: _Count
    state: _Digest
    block: _Digest
    taken: _Count


class _SavedPlaces(StrictModel):
    """The places from which the lanes of a stream go on."""

    lanes: Annotated[list[_SavedPlace], Field(min_length=1, max_length=1024)]


@dataclass(frozen=True, kw_only=True)
class StreamedImages:
    """Images of shards, of which an epoch has the next ones.

    Attributes:
        stream: the shards.
        images: of an epoch; as many as make whole steps are taken.
        epochs: length of the training.
        repeats: views of an image in each batch.
        interpolation: of the resize after decoding.
        digest: of an image's file, for `Batch.contents`; None: there are none.
    """

    stream: ImageStream
    images: int
    epochs: int
    interpolation: str
    repeats: int = 1
    digest: Digest | None = None

    def count_views(self, job: TrainingJob) -> int:
        """Count the views of an epoch: those of whole steps."""
        views = self.images * self.repeats
        return views - views % (job.config.batch_size * job.parts)

    def count_lanes(self, job: TrainingJob) -> int:
        """Return the number of lanes of a new run; a resumed one keeps its own."""
        images = job.config.batch_size * job.parts // self.repeats
        return count_lanes(images, len(self.stream))

    def load(self, job: TrainingJob, state: Mapping[str, Any] | None) -> LoadedStream:
        """Prepare the stream, from where a saved state stands.

        Raises GtaError (option "resume") for a state without such places.
        """
        places = None if state is None else _read_places(state)
        plan = StreamPlan(
            stream=self.stream,
            transform=job.transform,
            interpolation=self.interpolation,
            seed=job.config.seed,
            lanes=self.count_lanes(job) if places is None else len(places),
            images=job.config.batch_size // self.repeats,
            batches=self.count_views(job) // job.config.batch_size,
            epochs=self.epochs,
            repeats=self.repeats,
            shard=(job.processes.rank, job.processes.size),
            digest=self.digest,
        )
        return LoadedStream(plan, job, dict(enumerate(places or ())))


class LoadedStream:
    """The batches of `StreamedImages`, one after the other over all epochs.

    Attributes:
        workers: processes that load them.
    """

    def __init__(self, plan: StreamPlan, job: TrainingJob, places: dict[int, LanePlace]) -> None:
        self._plan, self._job = plan, job
        self._places = places
        self._loader: StreamLoader | None = None
        self._batches: Iterator[Batch] = iter(())
        self._notes = ImageNotes(most=MOST_NOTES)
        job.stores.notes.append(self._notes)
        self.workers = choose_workers(job.config.workers, job.compute.device, cached=False)

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first` on, which must be the next one."""
        number = epoch * self._plan.batches + first
        if self._loader is None:
            self._loader = StreamLoader(
                self._plan,
                self._places,
                number,
                self._notes,
                self.workers,
                self._job.compute.device.type == "cuda",
            )
            self._batches = iter(self._loader)
        if self._loader.position != number:
            raise ValueError(f"batch {number} is not the next one, {self._loader.position}")
        return islice(self._batches, self._plan.batches - first)

    def state(self) -> dict[str, Any]:
        """Return the places of all lanes, which all processes together know."""
        own = self._places if self._loader is None else self._loader.places
        known = {k: v for part in self._job.processes.gather(own) for k, v in part.items()}
        lanes = (known.get(lane, LanePlace(lane)) for lane in range(self._plan.lanes))
        return {_ENTRY: json.dumps({"lanes": [lane._asdict() for lane in lanes]})}

    def close(self) -> None:
        """End the workers."""
        if isinstance(self._batches, Generator):
            self._batches.close()


MOST_NOTES = 100_000
"""Images and shards that cannot be read, of which each is told and counted."""


def _read_places(state: Mapping[str, Any]) -> list[LanePlace]:
    with fitting():
        saved = read_content(_SavedPlaces, parse_json(state[_ENTRY]), _ENTRY)
        return [LanePlace(**lane.model_dump()) for lane in saved.lanes]
