"""The images of a run, decoded once where they are held in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from gtacli.data.base import Record
from gtacli.data.store import CacheMode, ImageStore
from gtacli.errors import GtaError
from gtacli.images.sizes import Size
from gtacli.runtime.distribution import Processes


@dataclass
class Stores:
    """Image stores by what is asked of them.

    Attributes:
        stores: made so far.
    """

    stores: list[ImageStore] = field(default_factory=list)

    def of(
        self, records: tuple[Record, ...], load_size: Size, interpolation: str, cache: CacheMode
    ) -> ImageStore:
        """The store of `records`; asked again, the same with what it holds."""
        for store in self.stores:
            if store.cover == load_size and store.records == records:
                return store
        store = ImageStore(records, load_size, interpolation=interpolation, cache=cache)
        self.stores.append(store)
        return store

    def skipped(self) -> set[str]:
        """Keys of the unreadable images met so far."""
        return {key for store in self.stores for key in store.skipped}

    def readable(self, records: tuple[Record, ...]) -> int:
        """How many of `records` have not turned out unreadable."""
        bad = self.skipped()
        return sum(record.key not in bad for record in records)

    def share_skipped(self, processes: Processes) -> None:
        """Every process learns of the unreadable images that any has met."""
        for met in processes.gather([store.skipped for store in self.stores]):
            for store, skipped in zip(self.stores, met, strict=True):
                for key, reason in skipped.items():
                    store.note(key, reason)


def prepare_training(store: ImageStore) -> None:
    """Fill the store of the training images, if it is to be filled.

    Raises GtaError where none can be read.
    """
    store.prepare()
    if len(store.skipped) == len(store):
        reason = next(iter(store.skipped.values()))
        raise GtaError(f"--data: none of the {len(store)} training images can be read; {reason}")
