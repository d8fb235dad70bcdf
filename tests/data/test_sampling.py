"""Tests of sampling and hold-out."""

import json
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.data import ImageDataset, Record
from gtacli.data.sampling import evenly, hold_out, make_split, sample_records, split_folds
from gtacli.errors import UsageError

counts = st.lists(st.integers(1, 30), min_size=1, max_size=5)
seeds = st.integers(-3, 2**40)
rates = st.one_of(
    st.sampled_from([15, 30, 50, 100, 0.1, 12.5]), st.floats(0.01, 100, allow_nan=False)
)


def make(sizes: list[int]) -> list[Record]:
    return [
        Record(f"{label}/{i}", label, Path(f"{label}-{i}"))
        for label, n in enumerate(sizes)
        for i in range(n)
    ]


def sizes_of(records: tuple[Record, ...], classes: int) -> list[int]:
    return [sum(record.label == label for record in records) for label in range(classes)]


@pytest.mark.parametrize(
    ("n", "rate", "kept"),
    [(20, 15, 3), (30, 15, 5), (100, 0.1, 1), (60, 5, 3), (7, 100, 7), (10, 70, 7), (1, 0.01, 1)],
)
def test_rates_round_up_exactly(n: int, rate: float, kept: int) -> None:
    assert len(sample_records(make([n]), rate=rate)) == kept


@given(counts, rates, seeds)
def test_rate_of_every_class(sizes: list[int], rate: float, seed: int) -> None:
    fraction = Fraction(str(rate)) / 100
    kept = sample_records(make(sizes), rate=rate, seed=seed)
    assert sizes_of(kept, len(sizes)) == [ceil(fraction * n) for n in sizes]


@given(counts, st.integers(1, 40), seeds)
def test_shots_of_every_class(sizes: list[int], shots: int, seed: int) -> None:
    kept = sample_records(make(sizes), shots=shots, seed=seed)
    assert sizes_of(kept, len(sizes)) == [min(shots, n) for n in sizes]


@given(counts, rates, rates, seeds)
def test_smaller_rates_are_subsets_of_larger_ones(
    sizes: list[int], one: float, other: float, seed: int
) -> None:
    small, large = sorted((one, other))
    records = make(sizes)
    assert set(sample_records(records, rate=small, seed=seed)) <= set(
        sample_records(records, rate=large, seed=seed)
    )


@given(counts, rates, seeds, st.randoms(use_true_random=False))
def test_neither_order_nor_other_classes_matter(sizes, rate, seed, random) -> None:  # type: ignore[no-untyped-def]
    records = make(sizes)
    shuffled = list(records)
    random.shuffle(shuffled)
    kept = sample_records(records, rate=rate, seed=seed)
    assert set(sample_records(shuffled, rate=rate, seed=seed)) == set(kept)
    alone = sample_records(
        [record for record in records if record.label == 0], rate=rate, seed=seed
    )
    assert alone == tuple(record for record in kept if record.label == 0)
    train, val = hold_out(kept, seed)
    again, val_again = hold_out(kept[::-1], seed)
    assert (set(train), set(val)) == (set(again), set(val_again))


def test_order_stays_and_seed_matters() -> None:
    records = make([50])
    kept = sample_records(records, rate=30, seed=1)
    assert list(kept) == [record for record in records if record in kept]
    assert kept != sample_records(records, rate=30, seed=2)


@given(counts, seeds)
def test_hold_out_rules(sizes: list[int], seed: int) -> None:
    records = make(sizes)
    train, val = hold_out(records, seed)
    assert sorted(train + val, key=records.index) == records
    assert sizes_of(val, len(sizes)) == [max(1, round(0.2 * n)) if n >= 3 else 0 for n in sizes]
    assert min(sizes_of(train, len(sizes))) >= 1


@given(counts, st.floats(0.1, 50), st.integers(3, 12), seeds)
def test_percentage_and_smallest_class(
    sizes: list[int], percent: float, min_images: int, seed: int
) -> None:
    records = make(sizes)
    train, val = hold_out(records, seed, percent, min_images)
    assert set(train) | set(val) == set(records)
    assert not set(train) & set(val)
    for n, held in zip(sizes, sizes_of(val, len(sizes)), strict=True):
        assert held == 0 if n < min_images else 1 <= held < n
        if held > 1:
            assert abs(held - n * percent / 100) <= 0.5 + 1e-9
    fifth = hold_out(records, seed)[1]
    same = {r for r in fifth if sizes[r.label] >= min_images}
    assert set(hold_out(records, seed, 20, min_images)[1]) == same
    small, large = (set(hold_out(records, seed, p)[1]) for p in (percent / 2, percent))
    assert small <= large
    assert hold_out(records, seed, 0) == (tuple(records), ())


def test_hold_out_is_independent_of_the_rate() -> None:
    """The held-out images are not those that a smaller rate would omit."""
    records = make([100])
    kept = sample_records(records, rate=50, seed=0)
    _, val = hold_out(kept, seed=0)
    assert set(val) - (set(kept) - set(sample_records(records, rate=40, seed=0)))


@pytest.mark.parametrize("options", [{"rate": 0}, {"rate": 101}, {"rate": -1}, {"shots": 0}])
def test_invalid_rates_and_shots(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        sample_records(make([5]), **options)


def test_rate_and_shots_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        sample_records(make([5]), rate=15, shots=2)


def dataset(sizes: list[int], **others: int) -> ImageDataset:
    splits = {"train": tuple(make(sizes))}
    for split, n in others.items():
        splits[split] = tuple(Record(f"{split}{i}", 0, Path("x")) for i in range(n))
    return ImageDataset("set", tuple(f"c{label}" for label in range(len(sizes))), splits)


def test_split_with_held_out_images() -> None:
    split = make_split(dataset([20, 10], test=4), rate=15, seed=3)
    assert [len(part) for part in (split.train, split.val, split.test)] == [4, 1, 4]
    content = json.loads(json.dumps(split.to_json()))
    assert content["validation"] == "held-out"
    assert content["hold_out"] == {"percent": 20, "min_images": 3}
    assert (content["rate"], content["shots"], content["seed"]) == (15, None, 3)
    assert content["classes"]["c0"] == {"available": 20, "train": 2, "val": 1, "test": 4}
    assert content["train"] == [record.key for record in split.train]
    assert not set(content["train"]) & set(content["val"])


def test_existing_validation_split_is_used() -> None:
    split = make_split(dataset([20], val=5))
    assert (len(split.train), len(split.val), split.info["validation"]) == (20, 5, "data")
    assert split.info["hold_out"] is None


def test_too_few_to_hold_out(caplog: pytest.LogCaptureFixture) -> None:
    split = make_split(dataset([20, 1]), shots=2)
    assert (len(split.train), split.val, split.info["validation"]) == (3, (), "none")
    assert split.info["rate"] is None
    assert "1 classes have fewer than 2" in caplog.text


def test_repeated_rows_stay_together() -> None:
    """No image is both trained on and held out; rates and shots count images, not rows."""
    images = make([10, 10])
    again = [
        replace(record, key=f"{record.key}#{n}", first=record.key)
        for record in images
        for n in (2, 3)
    ]
    train, val = hold_out([*images, *again])
    assert [record.key for record in val] == [record.key for record in hold_out(images)[1]]
    assert len(train) == 3 * 16
    assert not {record.image for record in train} & {record.image for record in val}
    half = sample_records([*images, *again], rate=50)
    assert len(half) == 3 * 10
    assert [r for r in half if r.first is None] == [*sample_records(images, rate=50)]
    assert [*sample_records([*images, *again], shots=2)] == [*sample_records(images, shots=2)]
    folds = split_folds([*images, *again], 3)
    assert {key: folds[key] for key in split_folds(images, 3)} == split_folds(images, 3)
    assert all(folds[record.key] == folds[record.image] for record in again)


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 40))
def test_evenly_is_the_plain_order_of_turns(labels: list[int], most: int) -> None:
    """The first of each class, then the second of each, and so on, as far as they go."""
    records = [Record(str(n), label, Path(str(n))) for n, label in enumerate(labels)]
    turns = [labels[:n].count(label) for n, label in enumerate(labels)]
    order = sorted(range(len(labels)), key=lambda n: (turns[n], n))
    assert evenly(tuple(records), most) == tuple(records[n] for n in sorted(order[:most]))
