"""Sampling of training images by class, and hold-out of validation images.

Every class is sorted by a hash of (seed, purpose, key). So a draw depends neither on the order of
the records nor on other classes nor on the platform, and the 15 % of a seed are a subset of its
30 %. Rates follow the protocol of fine-grained recognition: 15, 30, 50 or 100 % of each class,
rounded up.

Images with several labels are drawn by `stratification`, where none of that holds: what is drawn
for one class counts for others.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import nsmallest
from math import ceil, floor
from typing import Any

from gtacli.data.base import NO_LABEL, ImageDataset, Record
from gtacli.data.stratification import stratify
from gtacli.errors import UsageError
from gtacli.runtime.collection import without_collection

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
    """Return `rate` percent of each class, rounded up, or `shots` of each; the order stays.

    Of images with several labels the numbers are as near to these as can be; `shots` is the least.
    """
    if shots is not None and Fraction(str(rate)) != 100:
        raise UsageError("`sampling_rate` and `shots` exclude each other")
    if not 0 < rate <= 100:
        raise UsageError(f"must be above 0 and at most 100, got {rate}", option="sampling_rate")
    if shots is not None and shots < 1:
        raise UsageError(f"must be at least 1, got {shots}", option="shots")
    # Through str, so that 0.1 is exactly one tenth, and 15 % of 20 is 3, not 3.0000000000000004.
    fraction = Fraction(str(rate)) / 100
    if _has_several(records):
        return _sample_several(records, fraction, shots, seed)
    kept: set[str] = set()  # repeated rows of an image follow its first
    for members in _by_class(records).values():
        count = ceil(fraction * len(members)) if shots is None else min(shots, len(members))
        drawn = _shuffled(members, seed, "keep")[:count] if count < len(members) else members
        kept.update(record.key for record in drawn)
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

    Of images with several labels those with a smaller class are not held out, and the numbers are
    as near to these as can be.
    """
    held: set[str] = set()
    fraction = Fraction(str(percent)) / 100
    if _has_several(records):
        return _hold_out_several(records, seed, fraction, min_images)
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
    if _has_several(records):
        return _fold_several(records, folds, seed)
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
    turns: list[int] = []
    seen: dict[int, int] = defaultdict(int)
    for record in records:
        if record.labels is None:  # of a million images a tuple for each would take seconds
            turns.append(seen[record.label])
            seen[record.label] += 1
            continue
        labels = record.labels or (NO_LABEL,)
        turns.append(min(seen[label] for label in labels))
        for label in labels:
            seen[label] += 1
    order = nsmallest(most, zip(turns, range(len(turns)), strict=True))
    return tuple(records[number] for number in sorted(number for _, number in order))


@without_collection()
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
        few = sum(count < shots for count in count_labels(dataset["train"]).values())
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
            for label in record.every_label:
                counts[dataset.classes[label]][column] += 1
    return counts


def count_labels(records: Iterable[Record]) -> Counter[int]:
    """Return the number of images of each class that has any; repeated rows do not count."""
    return Counter(label for r in records if r.first is None for label in r.every_label)


def _has_several(records: Sequence[Record]) -> bool:
    return bool(records) and records[0].labels is not None


def _sample_several(
    records: Sequence[Record], fraction: Fraction, shots: int | None, seed: int
) -> tuple[Record, ...]:
    """Sample images with several labels; of each class the fraction, rounded up, or `shots`."""
    order = _shuffled(records, seed, "keep")
    if shots is not None:
        kept = _take_shots(order, shots)
    else:
        counts = count_labels(order)
        wanted = {label: ceil(fraction * count) for label, count in counts.items()}
        kept = _take_part(order, wanted, ceil(fraction * len(order)))
    return tuple(record for record in records if record.key in kept)


def _take_shots(order: Sequence[Record], shots: int) -> set[str]:
    """Return keys of images so that each class has `shots`, or all it has; rare classes first.

    An image counts for all its classes, so frequent ones may get more.
    """
    counts, taken = count_labels(order), Counter[int]()
    kept: set[str] = set()
    members: dict[int, list[Record]] = {}
    for record in order:
        for label in record.every_label:
            members.setdefault(label, []).append(record)
    for label in sorted(members, key=lambda label: (counts[label], label)):
        for record in members[label]:
            if taken[label] >= shots:
                break
            if record.key not in kept:
                kept.add(record.key)
                taken.update(record.every_label)
    return kept


def _hold_out_several(
    records: Sequence[Record], seed: int, fraction: Fraction, min_images: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    counts = count_labels(records)
    free = [r for r in records if all(counts[label] >= min_images for label in r.every_label)]
    if not fraction or len(free) < min_images:
        return tuple(records), ()
    wanted = {
        label: min(max(1, floor(fraction * n + Fraction(1, 2))), n - 1)
        for label, n in counts.items()
    }
    order = _shuffled(free, seed, "hold-out")
    held = _take_part(order, wanted, floor(fraction * len(free) + Fraction(1, 2)))
    train = tuple(record for record in records if record.key not in held)
    return train, tuple(record for record in records if record.key in held)


def _take_part(order: Sequence[Record], wanted: Mapping[int, int], size: int) -> set[str]:
    """Return the keys of `size` images with `wanted` of each class, as nearly as can be."""
    counts = count_labels(order)
    numbers = {label: number for number, label in enumerate(sorted(counts))}
    labels = [[numbers[label] for label in record.every_label] for record in order]
    part = [min(wanted[label], counts[label]) for label in numbers]
    rest = [counts[label] - n for label, n in zip(numbers, part, strict=True)]
    parts = stratify(labels, [part, rest], [size, len(order) - size])
    return {record.key for record, number in zip(order, parts, strict=True) if number == 0}


def _fold_several(records: Sequence[Record], folds: int, seed: int) -> dict[str, int]:
    order = _shuffled(records, seed, "folds")
    counts = count_labels(order)
    # As with one label: an image that is the only one of a class is always trained on.
    free = [r for r in order if all(counts[label] > 1 for label in r.every_label)]
    numbers = {label: number for number, label in enumerate(sorted(counts))}
    labels = [[numbers[label] for label in record.every_label] for record in free]
    wanted = [[counts[label] / folds for label in numbers]] * folds
    parts = stratify(labels, wanted, [len(free) / folds] * folds)
    return {record.key: part for record, part in zip(free, parts, strict=True)}


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
