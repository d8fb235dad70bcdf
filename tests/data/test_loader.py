"""Tests of the loader."""

import errno
import os
import pickle
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gtacli.data import Record
from gtacli.data.augment.transforms import EvalTransform, TrainTransform
from gtacli.data.loader import Batch, ImageStore, Loader, make_loader
from gtacli.runtime.limits import WORKER_STATUS

TRAIN, EVAL = TrainTransform((24, 32)), EvalTransform((24, 32))


def loader(records: list[Record], cache: str = "ram", **options: object) -> Loader:
    store = ImageStore(records, TRAIN.load_size, cache=cache)  # type: ignore[arg-type]
    options = {"train": True, "seed": 5, "epoch": 2, **options}
    return make_loader(store, TRAIN if options["train"] else EVAL, 4, **options)  # type: ignore[arg-type]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first[:4], second[:4], strict=True)
    )


def test_training_batches(records: list[Record]) -> None:
    batches = list(loader(records))
    assert [batch.images.shape for batch in batches] == [(4, 3, 24, 32)] * 2 + [(3, 3, 24, 32)]
    assert batches[0].images.dtype == torch.uint8
    indices = torch.cat([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(11))
    assert indices.tolist() != list(range(11))
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == [records[i].label for i in indices.tolist()]


def test_evaluation_is_complete_and_in_order(records: list[Record]) -> None:
    batches = list(loader(records, train=False))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(11))
    assert same(batches, list(loader(records, train=False, seed=9, epoch=9)))


@pytest.mark.parametrize(
    ("cache", "workers"), [("none", 0), ("ram", 2), ("none", 2)], ids=lambda value: str(value)
)
def test_cache_and_workers_change_nothing(records: list[Record], cache: str, workers: int) -> None:
    assert same(list(loader(records, cache, workers=workers)), list(loader(records)))


@pytest.mark.slow
def test_spawned_workers_change_nothing(records: list[Record]) -> None:
    assert same(list(loader(records, workers=1, context="spawn")), list(loader(records)))


def test_epoch_can_be_pickled(records: list[Record]) -> None:
    epoch = loader(records)._epoch
    assert same([pickle.loads(pickle.dumps(epoch))[1].batch], [epoch[1].batch])


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_at_a_batch(records: list[Record], workers: int) -> None:
    whole = loader(records)
    loaded = []
    for batch in whole:
        loaded.append(batch)
        if whole.position == 1:
            break
    rest = loader(records, start_batch=whole.position, workers=workers)
    assert len(rest) == 2
    assert same(loaded + list(rest), list(loader(records)))
    assert rest.position == 3
    assert list(loader(records, start_batch=3)) == []


def test_seed_and_epoch_change_order_and_crops(records: list[Record]) -> None:
    base = list(loader(records))
    assert same(base, list(loader(records)))
    for other in (loader(records, epoch=3), loader(records, seed=6), loader(records, seed=-1)):
        assert not same(base, list(other))
    one = loader(records, epoch=0)._epoch.order
    assert not torch.equal(one, loader(records, epoch=1)._epoch.order)


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_state_is_unchanged(records: list[Record], workers: int) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = list(loader(records, workers=workers))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(2)
    assert same(first, list(loader(records, workers=workers)))


def test_drop_last(records: list[Record]) -> None:
    assert [len(batch.labels) for batch in loader(records, drop_last=True)] == [4, 4]
    assert [len(batch.labels) for batch in loader(records[:3], drop_last=True)] == [3]
    assert len(loader(records[:8])) == 2
    assert list(loader([])) == []


@pytest.mark.parametrize("cache", ["ram", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_omitted(
    records: list[Record], cache: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    for index in (0, 1, 2, 3, 6):
        records[index].path.write_bytes(b"no image")
    tested = loader(records, cache, workers=workers, train=False)
    batches = list(tested)
    assert [batch.indices.tolist() for batch in batches] == [[], [4, 5, 7], [8, 9, 10]]
    assert batches[0].images.shape[0] == 0  # none is left, yet the batch keeps its place
    assert tested.position == 3
    assert sorted(tested._epoch.store.skipped) == [f"{i}.png" for i in (0, 1, 2, 3, 6)]
    assert caplog.text.count("skipped: ") == 5


@pytest.mark.parametrize("cache", ["ram", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_without_their_last_bytes_are_counted_once(
    tmp_path: Path, cache: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    records = []
    for i in range(8):
        Image.fromarray(pixels).save(file := tmp_path / f"{i}.jpg")
        if i:
            file.write_bytes(file.read_bytes()[:-4])
        records.append(Record(file.name, 0, file))
    store = ImageStore(records, (8, 8), cache=cache)
    for epoch in range(2):
        batches = make_loader(store, TrainTransform((8, 8)), 4, train=True, epoch=epoch,
                              workers=workers)  # fmt: skip
        assert sum(len(batch.labels) for batch in batches) == 8
        assert sorted(store.damaged) == [f"{i}.jpg" for i in range(1, 8)]
        assert not store.skipped
        assert caplog.text.count("lacks its last bytes") == 5
        assert caplog.text.count("2 more like these, 7 in all") == 1


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_all_images_unreadable(records: list[Record], cache: str) -> None:
    for record in records:
        record.path.write_bytes(b"no image")
    tested = loader(records, cache)
    assert [len(batch.labels) for batch in tested] == [0, 0, 0]
    assert len(tested._epoch.store.skipped) == 11


class Ends(TrainTransform):
    """A transform that ends a worker at its third image, as where it cannot send a batch."""

    def make_view(self, image: Any, rng: Any) -> Any:
        self.views = getattr(self, "views", 0) + 1
        if torch.utils.data.get_worker_info() and self.views > 2:
            os._exit(WORKER_STATUS + errno.ENOSPC)
        return super().make_view(image, rng)


@pytest.mark.parametrize("fails", ["at the start", "later"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_without_shared_memory_the_main_process_loads(
    records: list[Record],
    fails: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ImageStore, "shareable", True)
    store = ImageStore(records, TRAIN.load_size, cache="none")
    transform = TRAIN
    if fails == "later":
        transform = Ends((24, 32))
    else:
        monkeypatch.setattr("gtacli.data.workers._try_to_share", refuse)
    for epoch in (2, 3):
        tested = make_loader(store, transform, 4, train=True, seed=5, epoch=epoch, workers=2)
        assert same(list(tested), list(loader(records, epoch=epoch)))
        assert tested.position == 3
    line = "the memory that processes share (/dev/shm) is full: images are loaded by the main"
    assert caplog.text.count(line) == 1


def test_a_signal_ends_no_worker_that_is_just_beginning(
    records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own handler, under which a signal ends a worker, comes before ours."""
    parent, begin = os.getpid(), torch.set_num_threads

    def signaled(number: int) -> None:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
        begin(number)

    monkeypatch.setattr(torch, "set_num_threads", signaled)
    loader = make_loader(ImageStore(records, 8), TrainTransform((8, 8)), 4, train=True, workers=2)
    assert sum(len(batch.images) for batch in loader) == len(records)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGINT}


def test_repeats_read_each_image_once(
    records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    get = ImageStore.get
    monkeypatch.setattr(ImageStore, "get", lambda s, index: read.append(index) or get(s, index))
    batches = list(loader(records, repeats=2))
    assert sorted(read) == list(range(11))
    assert [len(batch.images) for batch in batches] == [4, 4, 4, 4, 4, 2]
    views = torch.cat([batch.indices for batch in batches])
    assert sorted(views.tolist()) == list(range(22))
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == [records[i // 2].label for i in views.tolist()]
    first = batches[0]
    assert not torch.equal(first.images[0], first.images[1])
    assert not torch.equal(first.crops[0], first.crops[1])
    assert same(batches, list(loader(records, "none", repeats=2, workers=2)))
