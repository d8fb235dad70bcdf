"""Epochs in which every class comes equally often."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gtacli.data import Record
from gtacli.data.augment.transforms import EvalTransform, TrainTransform
from gtacli.data.loader import Batch, Loader, draw_balanced, make_loader
from gtacli.data.store import ImageStore


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 2**30))
def test_every_class_comes_equally_often(labels: list[int], seed: int) -> None:
    given_labels = torch.tensor(labels)
    draw = lambda: draw_balanced(given_labels, torch.Generator().manual_seed(seed))  # noqa: E731
    numbers, before = draw()
    assert len(numbers) == len(labels)
    counts = Counter(given_labels[numbers].tolist())
    present = set(labels)
    assert set(counts) <= present
    assert max(counts.values()) - min(counts.get(c, 0) for c in present) <= 1
    images = Counter(numbers.tolist())
    for label in present:  # all images of a class come before one of them comes again
        own = [images.get(i, 0) for i, other in enumerate(labels) if other == label]
        assert max(own) - min(own) <= 1
    seen: Counter[int] = Counter()
    for number, times in zip(numbers.tolist(), before.tolist(), strict=True):
        assert times == seen[number]
        seen[number] += 1
    again = draw()
    assert torch.equal(again[0], numbers)
    assert torch.equal(again[1], before)


@pytest.fixture
def unequal(tmp_path: Path) -> list[Record]:
    """Nine images of one class, two of another."""
    records = []
    for i in range(11):
        Image.effect_noise((40, 36), 10 + i).convert("RGB").save(tmp_path / f"{i}.png")
        records.append(Record(f"{i}.png", int(i >= 9), tmp_path / f"{i}.png"))
    return records


def loader(records: list[Record], **options: object) -> Loader:
    options = {"train": True, "seed": 5, "epoch": 2, "balanced": True, **options}
    transform = TrainTransform((24, 32)) if options["train"] else EvalTransform((24, 32))
    store = ImageStore(tuple(records), transform.load_size)
    return make_loader(store, transform, 4, **options)  # type: ignore[arg-type]


def views(batches: list[Batch]) -> list[tuple[int, bytes]]:
    return [
        (index, image.numpy().tobytes())
        for batch in batches
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True)
    ]


def test_an_image_that_comes_again_has_another_view(unequal: list[Record]) -> None:
    found = views(list(loader(unequal)))
    assert len(found) == 11
    assert Counter(index >= 9 for index, _ in found)[True] in (5, 6)
    assert len({image for _, image in found}) == 11
    # The first view of an image is that of a plain epoch.
    plain = dict(views(list(loader(unequal, balanced=False))))
    first: dict[int, bytes] = {}
    for index, image in found:
        first.setdefault(index, image)
    assert all(plain[index] == image for index, image in first.items())


def test_workers_shards_and_a_late_start_change_nothing(unequal: list[Record]) -> None:
    whole = views(list(loader(unequal)))
    assert views(list(loader(unequal, workers=2))) == whole
    assert views(list(loader(unequal, start_batch=1))) == whole[4:]
    parts = [views(list(loader(unequal, shard=(i, 2)))) for i in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    assert views(list(loader(unequal, epoch=3))) != whole


def test_evaluation_is_not_balanced(unequal: list[Record]) -> None:
    found = [i for batch in loader(unequal, train=False) for i in batch.indices.tolist()]
    assert found == [*range(11)]
