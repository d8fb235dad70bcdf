"""The image stores of a run: each set of images is decoded once and shared by all phases."""

from __future__ import annotations

from dataclasses import dataclass, field

from gtacli.data.base import Record
from gtacli.data.store import CacheMode, ImageNotes, ImageStore
from gtacli.errors import GtaError
from gtacli.images.sizes import Size
from gtacli.runtime.distribution import Processes


@dataclass
class ImageStores:
    """The image stores of a run, by records and size.

    Attributes:
        interpolation: how images are resized.
        cache: whether decoded images are cached in memory.
        stores: the stores created so far.
        notes: of images that are in no store.
    """

    interpolation: str
    cache: CacheMode
    stores: list[ImageStore] = field(default_factory=list)
    notes: list[ImageNotes] = field(default_factory=list)

    @property
    def noted(self) -> list[ImageNotes]:
        """The notes of all images."""
        return [*self.stores, *self.notes]

    def get(
        self, records: tuple[Record, ...], load_size: Size, training: bool = False
    ) -> ImageStore:
        """Return the store of `records`; the same one every time.

        Args:
            training: to be trained on; see `ImageStore`.
        """
        for store in self.stores:
            if (store.cover, store.training) == (load_size, training) and store.records == records:
                return store
        store = ImageStore(
            records,
            load_size,
            interpolation=self.interpolation,
            cache=self.cache,
            training=training,
        )
        self.stores.append(store)
        return store

    def skipped(self) -> set[str]:
        """Return the keys of the images found unreadable so far."""
        return {key for notes in self.noted for key in notes.skipped}

    def damaged(self) -> set[str]:
        """Return the keys of the images that were read although they lack their last bytes."""
        return {key for notes in self.noted for key in notes.damaged}

    def count_readable(self, records: tuple[Record, ...]) -> int:
        """Count the records that have not been found unreadable."""
        bad = self.skipped()
        return sum(record.key not in bad for record in records)

    def count_scored(self, records: tuple[Record, ...]) -> int:
        """Count the labels of the readable records; of one class per image these are images."""
        bad = self.skipped()
        return sum(len(record.every_label) for record in records if record.key not in bad)

    def share_skipped(self, processes: Processes) -> None:
        """Exchange the unreadable and the damaged images that each process has found."""
        for found in processes.gather([(n.skipped, n.damaged) for n in self.noted]):
            for notes, (skipped, damaged) in zip(self.noted, found, strict=True):
                for key, reason in skipped.items():
                    notes.note(key, reason)
                for key, line in damaged.items():
                    notes.note_damaged(key, line)
                notes.summarize()


def prepare_training(store: ImageStore) -> None:
    """Fill the store of the training images, if it caches them.

    Raises GtaError if none of them can be read.
    """
    store.prepare()
    if len(store.skipped) == len(store):
        reason = next(iter(store.skipped.values()))
        text = f"none of the {len(store)} training images can be read; {reason}"
        raise GtaError(text, option="data")
