"""Tests of caches of many files, whose digests are looked up on disk."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gtacli.discovery.maps import MapCache, index, table
from gtacli.discovery.maps.files import RowArray, save
from gtacli.discovery.maps.index import INDEX, SEEN_KIND, index_cache, maps_kind, open_indexes
from gtacli.discovery.maps.ledger import ShardLedger, join_ledger
from gtacli.discovery.maps.stats import stats
from gtacli.discovery.maps.table import FileTable
from gtacli.errors import GtaError
from gtacli.runtime.ownership import owned

from .conftest import GRID, Setup, contents, noise

KIND = maps_kind((GRID, GRID))


def add_files(folder: Path, count: int, seed: int, rows: int = 5) -> None:
    """Add files of maps with digests of noise, and of stamps."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        maps = np.zeros(rows, KIND.rows)
        for field in ("digest", "map"):
            maps[field] = rng.integers(0, 256, maps[field].shape)
        save(folder / "maps", maps, folder / "draft")
        seen = np.zeros(rows, SEEN_KIND.rows)
        seen["sighting"] = rng.integers(0, 256, seen["sighting"].shape)
        seen["digest"] = maps["digest"]
        save(folder / "seen", seen, folder / "draft")


@pytest.fixture
def cache(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which gets an index when it has four files more."""
    folder = tmp_path / "out"
    setup.run(folder, [tmp_path / "missing.png"])
    monkeypatch.setattr(index, "MANY_FILES", 4)
    return folder


def build(folder: Path) -> bool:
    return index_cache(folder, (GRID, GRID), folder / "draft")


def content_of(folder: Path) -> dict[bytes, bytes]:
    """Return each map by its digest, as a cache without indexes reads them."""
    files = sorted((folder / "maps").iterdir())
    rows: list[RowArray] = [np.load(file) for file in files]
    return {bytes(row["digest"]): row["map"].tobytes() for part in rows for row in part}


def assert_complete(folder: Path) -> None:
    """Every map is found by its digest, and every digest by its stamp; no other is."""
    opened, whole = MapCache(folder), content_of(folder)
    digests = np.frombuffer(b"".join(whole), np.uint8).reshape(-1, 16)
    rows = opened.find_rows(digests)
    assert [opened[row].tobytes() for row in rows.tolist()] == list(whole.values())
    assert (opened.contents(rows) == digests).all()
    assert not opened.have(digests ^ 1).any()
    assert opened.count_images() == len(whole)
    assert set(contents(folder)) == set(whole)
    copy: MapCache = pickle.loads(pickle.dumps(opened))
    assert (copy.find_rows(digests) == rows).all()
    seen = np.concatenate([np.load(file) for file in (folder / "seen").iterdir()])
    found, known = FileTable(folder, SEEN_KIND).find(seen["sighting"])
    assert known.all()
    assert (found == seen["digest"]).all()
    assert not opened.have_stamps(digests).any()


def test_indexes_grow_as_a_binary_counter(cache: Path) -> None:
    sizes = []
    for round_ in range(9):
        add_files(cache, 4, seed=round_)
        assert build(cache)
        assert not build(cache)
        found, useless = open_indexes(cache, KIND)
        sizes.append([len(one) // 20 for one in found])
        assert not useless
        assert_complete(cache)
    assert sizes == [[1], [2], [2, 1], [4], [4, 1], [4, 2], [4, 2, 1], [8], [8, 1]]
    add_files(cache, 3, seed=10)
    assert not build(cache)
    assert_complete(cache)


def test_equal_maps_in_several_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PIECE", 7)
    add_files(cache, 4, seed=0)
    rows = np.concatenate([np.load(file) for file in (cache / "maps").iterdir()])
    save(cache / "maps", rows[::-1].copy(), cache / "draft")
    build(cache)
    save(cache / "maps", rows[3:12].copy(), cache / "draft")
    assert_complete(cache)
    assert len(MapCache(cache)) == 20 + 20 + 9


def test_files_that_are_gone_or_cut_have_no_maps(cache: Path) -> None:
    add_files(cache, 9, seed=0)
    build(cache)
    gone, cut, *_ = sorted((cache / "maps").iterdir())
    lost = np.concatenate([np.load(gone), np.load(cut)])["digest"]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-3])
    with pytest.raises(GtaError, match=f"{cut.name} is damaged"):
        MapCache(cache)
    opened = MapCache(cache, skip_damaged=True)
    assert opened.damaged == [cut]
    assert not opened.have(lost).any()
    assert opened.count_images() == 35
    cut.unlink()
    assert_complete(cache)
    add_files(cache, 9, seed=1)
    build(cache)  # merges the index, which forgets what is gone
    assert_complete(cache)
    assert len(MapCache(cache)) == 35 + 45


def test_damage_within_a_file_is_found_when_it_is_read_or_checked(cache: Path) -> None:
    add_files(cache, 4, seed=0)
    build(cache)
    file = min((cache / "maps").iterdir())
    digests = np.load(file)["digest"]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    opened = MapCache(cache)
    (row,) = opened.find_rows(digests[:1]).tolist()
    with pytest.raises(GtaError, match=f"{file.name} is damaged or gone"):
        opened[row]
    assert MapCache(cache, skip_damaged=True, check=True).damaged == [file]


def damage_index(cache: Path, place: int) -> tuple[Path, bytes]:
    """Change a byte of the index of maps; return its path and what it was."""
    (path,) = (cache / INDEX / "maps").iterdir()
    whole = path.read_bytes()
    data = bytearray(whole)
    data[place] ^= 1
    path.write_bytes(data)
    return path, whole


def test_without_a_damaged_index_the_same_is_found(cache: Path) -> None:
    """As the message advises: nothing may look it up that would make it again."""
    add_files(cache, 8, seed=0)
    build(cache)
    path, _ = damage_index(cache, -3)
    with pytest.raises(GtaError, match=f"{path.name} cannot be read .*; remove it"):
        MapCache(cache).count_images()
    path.unlink()
    assert_complete(cache)


@pytest.mark.parametrize("place", [3, -3], ids=["head", "block"])
def test_a_damaged_index_is_made_again(setup: Setup, cache: Path, place: int) -> None:
    add_files(cache, 8, seed=0)
    build(cache)
    path, whole = damage_index(cache, place)
    if place < 0:
        assert MapCache(cache, skip_damaged=True, check=True).damaged == [path]
    images = noise(cache.with_name("in"), 5)
    writer = setup.writer(cache)
    assert all(map(writer.has, content_of(cache)))
    assert not writer.has(bytes(16))
    writer.close(done=True)
    assert setup.run(cache, images).new == 5
    assert_complete(cache)
    assert path.read_bytes() == whole
    assert stats(MapCache(cache))["maps"] == 45


def test_a_merge_with_a_damaged_index_makes_it_again(cache: Path) -> None:
    add_files(cache, 4, seed=0)
    build(cache)
    path, _ = damage_index(cache, -1)
    add_files(cache, 4, seed=1)
    assert build(cache)
    assert not path.exists()
    assert_complete(cache)


def test_a_killed_merge_leaves_all_that_is_needed(
    cache: Path, new_life: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_files(cache, 4, seed=0)
    build(cache)
    (old,) = (cache / INDEX / "maps").iterdir()
    kept = old.read_bytes()
    add_files(cache, 4, seed=1)
    build(cache)
    old.write_bytes(kept)  # as if killed before it was removed
    new_life()
    assert_complete(cache)
    assert len(MapCache(cache)) == 40
    add_files(cache, 4, seed=2)
    build(cache)
    assert not old.exists()
    assert_complete(cache)


def test_one_process_indexes_at_a_time(cache: Path) -> None:
    add_files(cache, 4, seed=0)
    with owned(cache, "discover", part="index", shared=True):
        assert not build(cache)
    assert not (cache / INDEX).exists()
    assert build(cache)


def test_an_opened_cache_survives_a_merge(cache: Path) -> None:
    add_files(cache, 4, seed=0)
    build(cache)
    opened = MapCache(cache)
    known = np.frombuffer(b"".join(content_of(cache)), np.uint8).reshape(-1, 16)
    add_files(cache, 4, seed=1)
    build(cache)
    assert opened.have(known).all()


def test_few_files_are_open_at_a_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_OPEN_FILES", 2)
    add_files(cache, 6, seed=0)
    build(cache)
    assert_complete(cache)
    opened = MapCache(cache)
    for row in range(0, 30, 5):
        assert opened[row].shape == (GRID, GRID)
    assert len(opened._maps._opened) == 2


def test_the_files_of_a_ledger_are_joined(tmp_path: Path) -> None:
    for number in range(5):
        ledger = ShardLedger(tmp_path, tmp_path / "draft")
        ledger.rely_on({f"{n:032x}" for n in range(number)})
        ledger.add(f"shard {number}", 10 + number)
        ledger.rely_too(f"{number:032x}")
        ledger.write()
    assert len(list((tmp_path / "shards").iterdir())) == 5
    join_ledger(tmp_path, tmp_path / "draft")
    assert len(list((tmp_path / "shards").iterdir())) == 1
    ledger = ShardLedger(tmp_path, tmp_path / "draft")
    ledger.rely_on({f"{n:032x}" for n in range(5)})
    assert [ledger.find(f"shard {n}") for n in range(6)] == [10, 11, 12, 13, 14, None]
    ledger = ShardLedger(tmp_path, tmp_path / "draft")
    ledger.rely_on({f"{n:032x}" for n in range(4)})  # one is gone
    assert ledger.find("shard 0") is None


def test_a_damaged_ledger_is_not_joined(tmp_path: Path) -> None:
    for number in range(3):
        ledger = ShardLedger(tmp_path, tmp_path / "draft")
        ledger.rely_on(set())
        ledger.add(f"shard {number}", 1)
        ledger.write()
    file = min((tmp_path / "shards").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    join_ledger(tmp_path, tmp_path / "draft")
    assert len(list((tmp_path / "shards").iterdir())) == 3
