"""Tests of the image store."""

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gtacli.data import Record
from gtacli.data import store as module
from gtacli.data.store import ImageStore
from gtacli.images.decode import ImageError


def test_cached_equals_uncached(records: list[Record]) -> None:
    cached, plain = ImageStore(records, 30, cache="ram"), ImageStore(records, 30, cache="none")
    cached.prepare()
    assert (cached.cached, plain.cached) == (True, False)
    for index in range(len(records)):
        one, other = cached.get(index), plain.get(index)
        assert one.dtype == torch.uint8
        assert one.stride() == other.stride()
        assert torch.equal(one, other)
    assert cached.get(0).shape == (3, 30, 40)
    assert cached.get(3).shape == (3, 24, 20)  # smaller: as it is
    assert cached.labels.tolist() == [record.label for record in records]


def test_cached_images_are_not_read_again(records: list[Record]) -> None:
    store = ImageStore(records, 30, cache="ram")
    calls: list[tuple[int, int]] = []
    store.prepare(progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 11) for i in range(11)]
    for record in records:
        record.path.unlink()
    store.prepare()
    assert store.get(5).shape[0] == 3


def test_auto_caches_what_fits(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    need = 3 * sum(image.numel() // 3 for image in map(ImageStore(records, 30).get, range(11)))
    assert ImageStore(records, 30).cached
    monkeypatch.setattr(module, "available_memory", lambda: 4 * need)  # a quarter is not enough
    assert not ImageStore(records, 30).cached
    assert ImageStore(records, 30, cache="ram").cached
    monkeypatch.setattr(module, "available_memory", lambda: None)
    assert ImageStore(records, 30).cached
    monkeypatch.setattr(module, "AUTO_BYTES", need)
    assert not ImageStore(records, 30).cached
    assert not ImageStore([], 30).cached


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_unreadable_image_is_reported_once(
    records: list[Record], cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    records[4].path.write_bytes(records[4].path.read_bytes()[:60])
    store = ImageStore(records, 30, cache=cache)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        store.prepare()
        for _ in range(2):
            with pytest.raises(ImageError, match=r"4\.png") as caught:
                store.get(4)
            store.skip(4, str(caught.value))
    assert list(store.skipped) == ["4.png"]
    assert caplog.text.count("4.png") == 1
    assert store.get(5).shape[0] == 3


def test_all_images_unreadable(records: list[Record], tmp_path: Path) -> None:
    gone = [replace(record, path=tmp_path / "gone" / record.key) for record in records]
    store = ImageStore(gone, 30, cache="ram")
    store.prepare()
    assert len(store.skipped) == 11
    assert store.skipped["0.png"].startswith("no such image: ")


def test_pickle_includes_the_cache(records: list[Record]) -> None:
    store = ImageStore(records, 30, cache="ram")
    store.prepare()
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy.get(7), store.get(7))
