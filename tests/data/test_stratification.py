"""Tests of the stratification of images with several labels, and of what is drawn by it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.data import ImageDataset, Record
from gtacli.data.labels import label_tensor, multi_hot
from gtacli.data.learnable import require_classes
from gtacli.data.sampling import (
    count_labels,
    evenly,
    hold_out,
    make_split,
    sample_records,
    split_folds,
)
from gtacli.data.stratification import stratify
from gtacli.errors import GtaError

label_sets = st.lists(st.sets(st.integers(0, 6), max_size=4), min_size=1, max_size=60)
seeds = st.integers(0, 2**40)


def make(sets: list[set[int]]) -> list[Record]:
    return [
        Record(f"{i}.png", -1, Path(f"{i}.png"), labels=tuple(sorted(own)))
        for i, own in enumerate(sets)
    ]


def plain_stratify(labels: list[list[int]], wanted: np.ndarray, sizes: list[float]) -> list[int]:  # type: ignore[type-arg]
    """Algorithm 1 of the paper, as it stands there."""
    want, size = np.array(wanted, float), np.array(sizes, float)
    part_of = [-1] * len(labels)
    left = set(range(len(labels)))
    while left:
        counts = Counter(label for image in left for label in labels[image])
        if counts:
            rarest = min(counts, key=lambda label: (counts[label], label))
            images = [image for image in sorted(left) if rarest in labels[image]]
        else:
            images = sorted(left)
        for image in images:
            if counts:
                most = want[:, rarest].max()
                tied = [p for p in range(len(size)) if want[p, rarest] >= most - 1e-9]
            else:
                tied = [*range(len(size))]
            part = max(tied, key=lambda p: (size[p], -p))
            part_of[image] = part
            left.remove(image)
            size[part] -= 1
            for label in labels[image]:
                want[part, label] -= 1
    return part_of


@given(label_sets, st.integers(2, 4))
def test_it_is_the_papers_algorithm(sets: list[set[int]], parts: int) -> None:
    labels = [sorted(own) for own in sets]
    counts = np.bincount([label for own in labels for label in own], minlength=7)
    wanted = np.stack([counts / parts] * parts)
    sizes = [len(labels) / parts] * parts
    assert stratify(labels, wanted, sizes) == plain_stratify(labels, wanted, sizes)


@given(label_sets, st.sampled_from([15, 30, 50, 100]), seeds)
def test_a_sample(sets: list[set[int]], rate: float, seed: int) -> None:
    records = make(sets)
    kept = sample_records(records, rate=rate, seed=seed)
    assert kept == tuple(record for record in records if record in set(kept))
    assert kept == sample_records(records, rate=rate, seed=seed)
    shuffled = sample_records(records[::-1], rate=rate, seed=seed)
    assert set(shuffled) == set(kept)
    if rate == 100:
        assert kept == tuple(records)


@given(label_sets, st.integers(1, 12), seeds)
def test_every_class_has_its_shots(sets: list[set[int]], shots: int, seed: int) -> None:
    records = make(sets)
    have, kept = count_labels(records), sample_records(records, shots=shots, seed=seed)
    found = count_labels(kept)
    assert all(found[label] >= min(shots, count) for label, count in have.items())
    assert all(record.labels for record in kept)  # an image without a label counts for no class


@given(label_sets, seeds)
def test_images_of_small_classes_are_not_held_out(sets: list[set[int]], seed: int) -> None:
    records = make(sets)
    train, val = hold_out(records, seed, 20.0, 5)
    assert sorted((*train, *val), key=records.index) == records
    counts = count_labels(records)
    assert all(counts[label] >= 5 for record in val for label in record.every_label)
    assert hold_out(records, seed, 0.0) == (tuple(records), ())


@given(label_sets, st.integers(2, 5), seeds)
def test_folds(sets: list[set[int]], folds: int, seed: int) -> None:
    records = make(sets)
    found = split_folds(records, folds, seed)
    counts = count_labels(records)
    alone = {r.key for r in records if any(counts[label] == 1 for label in r.every_label)}
    assert found.keys() == {r.key for r in records} - alone
    assert set(found.values()) <= set(range(folds))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.sampled_from([15, 30, 50]), seeds)
def test_with_one_label_each_the_numbers_are_those_of_single_labels(
    sizes: list[int], rate: int, seed: int
) -> None:
    sets = [{label} for label, n in enumerate(sizes) for _ in range(n)]
    kept = count_labels(sample_records(make(sets), rate=rate, seed=seed))
    fraction = Fraction(rate, 100)
    assert [kept[label] for label in range(len(sizes))] == [ceil(fraction * n) for n in sizes]


def test_parts_are_nearer_than_those_of_chance() -> None:
    """On drawn labels of unequal frequency: the paper's point."""
    random = np.random.default_rng(0)
    frequencies = 0.5 ** np.arange(1, 9)
    labels = [np.flatnonzero(random.random(8) < frequencies).tolist() for _ in range(1000)]
    counts = np.bincount([label for own in labels for label in own], minlength=8)

    def error(parts: list[int]) -> float:
        own = [label for one, part in zip(labels, parts, strict=True) if part == 0 for label in one]
        return float(np.abs(np.bincount(own, minlength=8) / counts - 0.2).mean())

    wanted = np.stack([counts * 0.2, counts * 0.8])
    ours = error(stratify(labels, wanted, [200, 800]))
    chance = np.mean([error((random.random(1000) > 0.2).astype(int).tolist()) for _ in range(50)])
    assert ours < 0.03  # of four images of a class a fifth is none or one
    assert ours < chance / 2


def test_a_split_counts_labels() -> None:
    sets = [{0, 1}, {0}, set(), {1}, {0, 1}, {0}] * 5
    data = ImageDataset("tiny", ("a", "b"), {"train": tuple(make(sets))})
    split = make_split(data, percent=20.0)
    assert split.info["classes"]["a"]["available"] == 20
    assert split.info["classes"]["a"]["train"] + split.info["classes"]["a"]["val"] == 20
    assert len(split.train) + len(split.val) == 30
    assert len(split.val) == 6


@pytest.mark.parametrize("most", [1, 4, 100])
def test_evenly(most: int) -> None:
    records = tuple(make([{0}] * 20 + [{1}, {1, 2}, set()]))
    chosen = evenly(records, most)
    assert len(chosen) == min(most, len(records))
    if most == 4:
        assert {label for record in chosen for label in record.every_label} == {0, 1, 2}


def test_labels_without_training_images_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Their images stay; a single class is one that an image has or has not."""
    train = make([{0}, set(), {0}])
    test = [replace(r, key=f"t{r.key}") for r in make([{0, 2}, {1}])]
    data = ImageDataset("tiny", ("a", "b", "c"), {"train": tuple(train), "test": tuple(test)})
    found = require_classes(data)
    assert found.classes == ("a",)
    assert [record.labels for record in found["test"]] == [(0,), ()]
    assert "labels of classes without a training image: 'b', 'c'" in caplog.text


def test_labels_as_tensors() -> None:
    rows = label_tensor(make([{0, 3}, set(), {2}]))
    assert rows.tolist() == [[0, 3], [-1, -1], [2, -1]]
    assert multi_hot(rows, 4).tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert label_tensor(make([set(), set()])).shape == (2, 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [((0, 7), "label 7, outside"), ((1, 0), "do not ascend"), (None, "has label -1, outside")],
)
def test_invalid_labels_are_refused(labels: tuple[int, ...] | None, message: str) -> None:
    record = Record("0.png", -1, Path("0.png"), labels=labels)
    with pytest.raises(GtaError, match=message):
        ImageDataset("tiny", ("a", "b"), {"train": (record,)})


def test_all_images_have_one_class_or_all_any_number() -> None:
    records = (Record("0.png", 0, Path("0.png")), *make([{0}, {1}])[1:])
    with pytest.raises(GtaError, match=r"1\.png has several labels, others have one"):
        ImageDataset("tiny", ("a", "b"), {"train": records})
