"""Tests of batches of a stream: the same for any numbers of workers, resumed or not."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gtacli.data.augment.augmentation import Augmentation
from gtacli.data.augment.batched import BatchedAugmentation
from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.loader import Batch
from gtacli.data.spec import find_stream
from gtacli.data.store import ImageNotes, ImageStore
from gtacli.data.stream_loader import StreamLoader, StreamPlan
from gtacli.data.streams import lanes
from gtacli.data.streams.lanes import LanePlace
from gtacli.discovery.maps.digests import digest as hash_content
from gtacli.errors import GtaError
from tests.shards import write_tar

SHARDS, IMAGES = 8, 6


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards of six images."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(SHARDS):
        images = {f"{i}.png": png(IMAGES * shard + i) for i in range(IMAGES)}
        write_tar(folder / f"{shard}.tar", images)
    return folder


def make_plan(folder: Path, **changes: Any) -> StreamPlan:
    """Return the plan of three epochs of three batches of eight images, of four lanes."""
    stream = find_stream(f"wds/{folder}")
    assert stream is not None
    values: dict[str, Any] = {
        "stream": stream, "transform": Augmentation(TrainTransform((8, 8))), "seed": 3, "lanes": 4,
        "interpolation": "bicubic", "images": 8, "batches": 3, "epochs": 3, "digest": digest,
    }  # fmt: skip
    return StreamPlan(**{**values, **changes})


def loader(
    plan: StreamPlan, places: dict[int, LanePlace] | None = None, first: int = 0, **options: Any
) -> StreamLoader:
    return StreamLoader(plan, places or {}, first, ImageNotes(), **options)


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for a, b in zip(one, other, strict=True):
            if isinstance(a, torch.Tensor):
                assert torch.equal(a, b)
            else:
                assert a == b


def test_batches_of_an_epoch(folder: Path) -> None:
    batches = list(loader(make_plan(folder)))
    assert len(batches) == 9
    for number, batch in enumerate(batches):
        assert batch.images.shape == (8, 3, 8, 8)
        start = number % 3 * 8
        assert batch.indices.tolist() == list(range(start, start + 8))
    # Six batches are one pass over the 48 images; each lane has two of the eight shards.
    names = {digest(png(i)): i for i in range(SHARDS * IMAGES)}
    assert all(batch.contents is not None for batch in batches)
    seen = [[names[bytes(c.numpy())] for c in batch.contents] for batch in batches]  # type: ignore[union-attr]
    assert sorted(i for batch in seen[:6] for i in batch) == list(range(48))
    assert max(Counter(i for batch in seen for i in batch).values()) == 2


@pytest.mark.parametrize(
    "workers", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 4, 8))]
)
def test_workers_change_nothing(folder: Path, workers: int) -> None:
    """Also where there are more of them than lanes, and where images are read together."""
    plan = make_plan(folder)
    assert_same(list(loader(plan, workers=workers)), list(loader(plan)))
    plan = make_plan(folder, lanes=1, repeats=2)
    assert_same(list(loader(plan, workers=workers)), list(loader(plan)))


@pytest.mark.parametrize(
    ("count", "images"),
    [
        (2, 8),
        (3, 8),
        (4, 9),
        *(pytest.param(*n, marks=pytest.mark.slow) for n in ((8, 8), (4, 12), (2, 9))),
    ],
)
def test_processes_share_each_batch(folder: Path, count: int, images: int) -> None:
    """Also where the lanes are no multiple of their number, or do not divide the batch."""
    plan = make_plan(folder, images=images)
    whole = list(loader(plan))
    parts = [list(loader(replace(plan, shard=(rank, count)))) for rank in range(count)]
    for number, batch in enumerate(whole):
        for rank in range(count):
            part = parts[rank][number]
            for field in (0, 2, 3, 5):
                one, all_of_them = part[field], batch[field]
                assert isinstance(one, torch.Tensor)
                assert torch.equal(one, all_of_them[rank::count])  # type: ignore[index]


def test_lanes_of_a_process_are_its_own(folder: Path) -> None:
    plan = make_plan(folder)
    assert [replace(plan, shard=(r, 2)).own_lanes() for r in range(2)] == [[0, 2], [1, 3]]
    assert replace(plan, shard=(1, 3)).own_lanes() == [0, 1, 3]  # of images 1, 4, 7
    assert replace(plan, lanes=1, shard=(1, 2)).own_lanes() == [0]


def test_parts_of_a_batch_are_the_batch(folder: Path) -> None:
    """As `batch_size=auto` cuts it."""
    whole = list(loader(make_plan(folder)))
    for part in (1, 2, 4):
        small = list(loader(make_plan(folder, images=part, batches=24 // part)))
        indices = torch.cat([batch.indices for batch in small])
        assert torch.equal(indices, torch.cat([batch.indices for batch in whole]))
        images = torch.cat([batch.images for batch in small])
        assert torch.equal(images, torch.cat([batch.images for batch in whole]))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_any_batch_is_a_beginning(folder: Path, data: Any) -> None:
    """By other numbers of processes than there were, whose places are put together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "SHUFFLED", data.draw(st.sampled_from([1, 10, 2048])))
        plan = make_plan(folder, lanes=data.draw(st.sampled_from([1, 2, 4, 8])))
        whole = list(loader(plan))
        places: dict[int, LanePlace] = {}
        position, found = 0, list[Batch]()
        while position < 9:
            count = data.draw(st.integers(1, 9 - position))
            size = data.draw(st.integers(1, 4))
            parts = [loader(replace(plan, shard=(r, size)), places, position) for r in range(size)]
            taken = [list(islice(iter(part), count)) for part in parts]
            for k in range(count):
                order = torch.cat([own[k].indices for own in taken]).argsort()
                fields = [torch.cat([own[k][f] for own in taken])[order] for f in (0, 1, 2, 3, 5)]  # type: ignore[misc]
                found.append(Batch(*fields[:4], contents=fields[4]))
            for part in parts:
                places |= part.places
            position = parts[0].position
        assert_same(found, whole)


@pytest.mark.parametrize("workers", [(0, 2), (2, 0), pytest.param((4, 1), marks=pytest.mark.slow)])
def test_other_workers_go_on(folder: Path, workers: tuple[int, int]) -> None:
    plan = make_plan(folder)
    first = loader(plan, workers=workers[0])
    found = list(islice(iter(first), 4))
    second = loader(plan, first.places, first.position, workers=workers[1])
    assert_same([*found, *second], list(loader(plan)))


def test_views_are_new_in_each_epoch(folder: Path) -> None:
    plan = make_plan(folder, lanes=1, batches=6, epochs=2)
    batches = list(loader(plan))
    crops = torch.cat([batch.crops for batch in batches])
    assert len(crops.unique(dim=0)) > 80


def test_repeats_are_views_of_an_image_each(folder: Path) -> None:
    (plain, *_), (batch, *_) = (list(loader(make_plan(folder, repeats=n))) for n in (1, 2))
    assert batch.indices.tolist() == list(range(16))
    assert batch.contents is not None
    assert plain.contents is not None
    assert torch.equal(batch.contents[::2], plain.contents)
    assert torch.equal(batch.contents[1::2], plain.contents)
    assert not torch.equal(batch.images[::2], batch.images[1::2])


def test_batched_augmentation_finishes_in_this_process(folder: Path) -> None:
    plan = make_plan(folder)
    assert isinstance(plan.transform, Augmentation)
    batched = BatchedAugmentation(plan.transform, torch.device("cpu"))
    for workers in (0, 2):
        wanted = list(loader(plan))
        found = list(loader(replace(plan, transform=batched), workers=workers))
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(one.indices, other.indices)
            difference = (one.images.int() - other.images.int()).abs()
            assert difference.max() <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_and_shards_are_noted(folder: Path, tmp_path: Path, workers: int) -> None:
    for shard in range(4):
        images = {f"{i}.png": png(i) for i in range(6)}
        if shard == 2:
            images["0.png"] = b"no image"
        write_tar(tmp_path / f"{shard}.tar", images)
    (tmp_path / "3.tar").write_bytes(b"no tar")
    notes = ImageNotes()
    tested = StreamLoader(make_plan(tmp_path, lanes=2), {}, 0, notes, workers)
    batches = list(tested)
    assert {name.rpartition("/")[2] for name in notes.skipped} == {"3.tar", "2.tar:0.png"}
    assert "it ends early" in notes.skipped[f"{tmp_path}/3.tar"]
    sizes = [len(batch.images) for batch in batches]
    assert min(sizes) < 8
    assert all(len(batch.indices) == size for batch, size in zip(batches, sizes, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_without_a_readable_image_are_empty(tmp_path: Path, workers: int) -> None:
    write_tar(tmp_path / "0.tar", {f"{i}.png": b"no image" for i in range(5)})
    for batch in loader(make_plan(tmp_path, lanes=1), workers=workers):
        assert batch.images.shape == (0, 3, 8, 8)
        assert batch.contents is not None
        assert batch.contents.shape == (0, 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_images_is_a_line(tmp_path: Path, workers: int) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", {})
    with pytest.raises(GtaError, match="shards in a row have no image") as error:
        list(loader(make_plan(tmp_path, lanes=2), workers=workers))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_changed_shard_is_a_line(folder: Path, tmp_path: Path, workers: int) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    plan = make_plan(tmp_path)
    first = loader(plan)
    next(iter(first))
    write_tar(tmp_path / "0.tar", {"0.png": png(0)})
    with pytest.raises(GtaError, match="no longer what it was") as error:
        list(loader(plan, first.places, 1, workers=workers))
    assert error.value.option == "resume"


def test_without_shared_memory_this_process_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ImageStore, "shareable", True)
    monkeypatch.setattr("gtacli.data.workers._try_to_share", refuse)
    plan = make_plan(folder)
    assert_same(list(loader(plan, workers=2)), list(loader(plan)))
    assert "images are loaded by the main process" in caplog.text


@pytest.mark.slow
def test_spawned_workers_change_nothing(folder: Path) -> None:
    plan = make_plan(folder, digest=hash_content)
    assert_same(list(loader(plan, workers=2, context="spawn")), list(loader(plan)))
