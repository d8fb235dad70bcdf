"""Sampling of training images by class, and hold-out of validation images.

Every class is sorted by a hash of (seed, purpose, key). So a draw depends neither on the order of
the records nor on other classes nor on the platform, and the 15 % of a seed are a subset of its
30 %. Rates follow the protocol of fine-grained recognition: 15, 30, 50 or 100 % of each class,
rounded up.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any

from gtacli.data.base import ImageDataset, Record
from gtacli.errors import UsageError

log = logging.getLogger(__name__)
MIN_TO_HOLD_OUT = 3
FIFTH = 20.0  # percent


@dataclass(frozen=True)
class Split:
    """The images that a run trains, validates and tests on; `info` describes the draw."""

    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]
    info: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `split.json`: the draw, numbers by class, and all keys."""
        keys = {name: [r.key for r in getattr(self, name)] for name in ("train", "val", "test")}
        return {**self.info, **keys}


def sample_records(
    records: Sequence[Record],
    *,
    rate: float | Fraction = 100,
    shots: int | None = None,
    seed: int = 0,
) -> tuple[Record, ...]:
    """Return `rate` percent of each class, rounded up, or `shots` of each; the order stays."""
    if shots is not None and Fraction(str(rate)) != 100:
        raise UsageError("`sampling_rate` and `shots` exclude each other")
    if not 0 < rate <= 100:
        raise UsageError(f"must be above 0 and at most 100, got {rate}", option="sampling_rate")
    if shots is not None and shots < 1:
        raise UsageError(f"must be at least 1, got {shots}", option="shots")
    # Through str, so that 0.1 is exactly one tenth, and 15 % of 20 is 3, not 3.0000000000000004.
    fraction = Fraction(str(rate)) / 100
    kept: set[str] = set()  # repeated rows of an image follow its first
    for members in _by_class(records).values():
        count = ceil(fraction * len(members)) if shots is None else min(shots, len(members))
        kept.update(record.key for record in _shuffled(members, seed, "keep")[:count])
    if shots is not None:
        return tuple(record for record in records if record.key in kept)
    return tuple(record for record in records if record.image in kept)


def hold_out(
    records: Sequence[Record],
    seed: int = 0,
    percent: float = FIFTH,
    min_images: int = MIN_TO_HOLD_OUT,
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Return (train, val): val has `percent` of every class of at least `min_images`.

    The number is rounded to the nearest, half up; it is at least 1 and never the whole class. A
    larger percentage of a seed contains a smaller one. With 0 percent val is empty. An image that
    is repeated counts once, and is in one of both alone.
    """
    held: set[str] = set()
    fraction = Fraction(str(percent)) / 100
    for members in _by_class(records).values():
        n = len(members)
        if percent and n >= min_images:
            count = min(max(1, floor(fraction * n + Fraction(1, 2))), n - 1)
            held.update(record.key for record in _shuffled(members, seed, "hold-out")[:count])
    train = tuple(record for record in records if record.image not in held)
    return train, tuple(record for record in records if record.key in held)


def split_folds(records: Sequence[Record], folds: int, seed: int = 0) -> dict[str, int]:
    """Return the fold of each image, 0 to `folds` - 1, by key.

    The images of a class are spread over the folds, so that a class of two or more is left in every
    fold's training images. A class of one has no fold: its image is always trained on.
    """
    found: dict[str, int] = {}
    for _, members in sorted(_by_class(records).items()):
        if len(members) > 1:
            for record in _shuffled(members, seed, "folds"):
                found[record.key] = len(found) % folds  # goes on where the last class ended
    repeated = {r.key: found[r.image] for r in records if r.first is not None and r.image in found}
    return found | repeated


def evenly(records: tuple[Record, ...], most: int) -> tuple[Record, ...]:
    """Return at most `most` records, about equally many of each class, in their order."""
    if len(records) <= most:
        return records
    turns: dict[int, int] = defaultdict(int)
    order: list[tuple[int, int]] = []
    for number, record in enumerate(records):
        order.append((turns[record.label], number))
        turns[record.label] += 1
    return tuple(records[number] for number in sorted(n for _, n in sorted(order)[:most]))


def make_split(
    dataset: ImageDataset,
    *,
    rate: float | Fraction = 100,
    shots: int | None = None,
    seed: int = 0,
    percent: float = FIFTH,
    min_images: int = MIN_TO_HOLD_OUT,
) -> Split:
    """Sample the training split; hold out a part of it if the dataset has no validation split.

    Args:
        percent, min_images: what is held out, see `hold_out`.
    """
    kept = sample_records(dataset["train"], rate=rate, shots=shots, seed=seed)
    if dataset["val"]:
        train, val, origin = kept, dataset["val"], "data"
    else:
        train, val = hold_out(kept, seed, percent, min_images)
        origin = "held-out" if val else "none"
    if shots is not None:
        few = sum(len(members) < shots for members in _by_class(dataset["train"]).values())
        if few:
            log.warning(
                "%d classes have fewer than %d training images; all of them are used", few, shots
            )
    test = dataset["test"]
    info = {
        "dataset": dataset.name,
        "rate": None if shots is not None else float(rate),
        "shots": shots,
        "seed": seed,
        "validation": origin,
        "hold_out": None if origin == "data" else {"percent": percent, "min_images": min_images},
        "classes": _count_by_class(dataset, train, val, test),
    }
    return Split(train, val, test, info)


def _count_by_class(dataset: ImageDataset, *splits: Sequence[Record]) -> dict[str, dict[str, int]]:
    counts = {name: {"available": 0, "train": 0, "val": 0, "test": 0} for name in dataset.classes}
    for column, records in zip(
        ("available", "train", "val", "test"), (dataset["train"], *splits), strict=True
    ):
        for record in records:
            counts[dataset.classes[record.label]][column] += 1
    return counts


def _by_class(records: Iterable[Record]) -> dict[int, list[Record]]:
    """Group the records by label, without the repeated rows of an image."""
    classes: dict[int, list[Record]] = {}
    for record in records:
        if record.first is None:
            classes.setdefault(record.label, []).append(record)
    return classes


def _shuffled(records: Iterable[Record], seed: int, purpose: str) -> list[Record]:
    def place(record: Record) -> bytes:
        text = f"{seed}\0{purpose}\0{record.key}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    return sorted(records, key=place)
