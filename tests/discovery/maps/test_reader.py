"""Tests of the reader in other processes, with packed images, and with changing folders."""

from __future__ import annotations

import multiprocessing
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from gtacli.data.spec import load_dataset
from gtacli.discovery.maps import MapCache
from gtacli.errors import GtaError

from .conftest import Setup, noise


class Maps(Dataset[int]):
    """A training set that reads maps from a cache."""

    def __init__(self, cache: MapCache, rows: list[int]) -> None:
        self.cache, self.rows = cache, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> int:
        return int(self.cache[self.rows[i]].astype(int).sum())


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_same_maps(setup: Setup, tmp_path: Path, context: str) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} here")
    images = noise(tmp_path / "in", 30)
    setup.run(tmp_path / "out", images)
    cache = MapCache(tmp_path / "out")
    maps = Maps(cache, cache.rows(images).tolist())
    found: list[int] = [
        int(value)
        for batch in DataLoader(maps, 5, num_workers=2, multiprocessing_context=context)
        for value in batch
    ]
    assert found == [maps[i] for i in range(30)]
    assert len(set(found)) > 20


def test_pickled_cache_keeps_rows_after_additions(setup: Setup, tmp_path: Path) -> None:
    images = noise(tmp_path / "in", 12)
    setup.run(tmp_path / "out", images)
    cache = MapCache(tmp_path / "out")
    rows = cache.rows(images)
    packed = pickle.dumps(cache)
    more = noise(tmp_path / "more", 40, seed=3)
    setup.run(tmp_path / "out", [*images, *more])
    copy: MapCache = pickle.loads(packed)
    assert len(copy) == len(cache) == 12
    assert all((copy[int(row)] == cache[int(row)]).all() for row in rows)
    assert (copy.rows([*images, *more]) == [*rows, *[-1] * 40]).all()
    next((tmp_path / "out" / "maps").iterdir()).unlink()
    for file in (tmp_path / "out" / "maps").iterdir():
        file.unlink()
    with pytest.raises(GtaError, match="has changed after it was opened"):
        pickle.loads(packed)


def test_rows_out_of_range(setup: Setup, tmp_path: Path) -> None:
    setup.run(tmp_path / "out", noise(tmp_path / "in", 3))
    cache = MapCache(tmp_path / "out")
    for row in (-1, 3):
        with pytest.raises(IndexError, match=f"row {row} of 3 maps"):
            cache[row]


def test_stamps_can_be_deleted(setup: Setup, tmp_path: Path) -> None:
    images = noise(tmp_path / "in", 20)
    setup.run(tmp_path / "out", images)
    rows = MapCache(tmp_path / "out").rows(images)
    for file in (tmp_path / "out" / "seen").iterdir():
        file.unlink()
    counted: list[int] = []
    again = MapCache(tmp_path / "out").rows(images, threads=2, progress=counted.append)
    assert (again == rows).all()
    assert sum(counted) == 20


def test_members_of_shards(setup: Setup, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    images = noise(tmp_path / "in", 12)
    with tarfile.open(tmp_path / "birds-train-0.tar", "w") as tar:
        for i, path in enumerate(images):
            label = path.with_suffix(".cls")
            label.write_text(str(i % 2))
            tar.add(path, f"{i:03}.png")
            tar.add(label, f"{i:03}.cls")
    records = load_dataset(f"wds/{tmp_path}/birds-train-0.tar")["train"]
    sources = [record.path for record in records]
    setup.run(tmp_path / "out", sources)  # type: ignore[arg-type]
    cache = MapCache(tmp_path / "out")
    assert sorted(cache.rows(sources).tolist()) == list(range(12))
    # The same bytes as files have the same maps, although these files have no stamps.
    assert (cache.rows(images) == cache.rows(sources)).all()
    assert cache.digests(sources)[1].all()
    assert not cache.digests(images)[1].any()


def test_an_empty_cache(setup: Setup, tmp_path: Path) -> None:
    setup.run(tmp_path / "out", [tmp_path / "missing.png"])
    cache = MapCache(tmp_path / "out")
    assert len(cache) == 0
    assert np.array_equal(cache.rows(noise(tmp_path / "in", 2)), [-1, -1])
    assert cache.find(b"anything") is None
