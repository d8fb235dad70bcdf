"""Tests of caches that are filled from streams of shards: resuming, sharing, changed shards."""

from __future__ import annotations

import itertools
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtacli.data.spec import find_stream
from gtacli.data.streams import stream as streams
from gtacli.discovery.maps import MapCache
from gtacli.inference.discover import fill_cache_from_stream
from gtacli.inference.stream import Failure

from .conftest import Deaths, FillResult, Setup, contents, hashes, noise


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards whose members are read."""
    names: list[str] = []
    members = streams.TarShard.members

    def noted(shard: streams.TarShard, *given: Any) -> Iterator[Any]:
        names.append(shard._path.name)
        return members(shard, *given)

    monkeypatch.setattr(streams.TarShard, "members", noted)
    return names


def write_shards(folder: Path, sizes: tuple[int, ...], seed: int = 0) -> str:
    """Write tars with so many images each, some of them equal; return the spec."""
    images = noise(folder.with_name(f"{folder.name}-images"), sum(sizes), seed)
    left = iter(images)
    folder.mkdir()
    for number, size in enumerate(sizes):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for path in itertools.islice(left, size):
                same = path.name.endswith("7.png")  # the same image in several shards
                tar.add(images[0] if same else path, path.name)
    return f"wds/{folder}/{{0..{len(sizes) - 1}}}.tar"


SIZES = (5, 1, 0, 9, 17, 2, 2, 3, 6)
COUNT = sum(SIZES)


def run(
    setup: Setup,
    out: Path,
    spec: str,
    share: tuple[int, int] = (0, 1),
    stop: Callable[[], bool] = lambda: False,
) -> FillResult:
    found = find_stream(spec)
    assert found is not None
    setup.backend.seen = 0
    steps, failed = [], []
    cache = setup.writer(out, share)
    for step in fill_cache_from_stream(setup.finder, found, cache, 4, 0, stop):
        if isinstance(step, Failure):
            failed.append(step.image)
        else:
            steps.append(step)
    done = sum(step.images for step in steps) + len(failed)
    return FillResult(done, sum(step.new for step in steps), failed)


def maps_of(out: Path) -> dict[str, str]:
    return hashes(out / "maps")


def test_maps_equal_those_of_files(setup: Setup, tmp_path: Path) -> None:
    spec = write_shards(tmp_path / "in", SIZES)
    done = run(setup, tmp_path / "out", spec)
    assert (done.images, done.failed) == (COUNT, [])
    images = sorted((tmp_path / "in-images").iterdir())
    setup.run(tmp_path / "files", images)
    here, there = MapCache(tmp_path / "out"), MapCache(tmp_path / "files")
    for row, other in zip(here.rows(images), there.rows(images), strict=True):
        if row >= 0:
            assert np.array_equal(here[int(row)], there[int(other)])
    assert done.new == len(here) == len(images) - sum(p.name.endswith("7.png") for p in images)
    assert not list((tmp_path / "out").glob("journal-*"))


def test_finished_shards_are_not_read_again(setup: Setup, tmp_path: Path, read: list[str]) -> None:
    spec = write_shards(tmp_path / "in", SIZES)
    out = tmp_path / "out"
    run(setup, out, spec)
    read.clear()
    again = run(setup, out, spec)
    assert (again.images, again.new, read) == (COUNT, 0, [])
    # A shard that has changed is read, also where its size has not.
    place = tmp_path / "in/4.tar"
    write_shards(tmp_path / "other", SIZES, seed=1)
    assert os.path.getsize(place) == os.path.getsize(tmp_path / "other/4.tar")
    place.write_bytes((tmp_path / "other/4.tar").read_bytes())
    changed = run(setup, out, spec)
    assert read == ["4.tar"]
    assert (changed.images, changed.new) == (COUNT, SIZES[4] - 1)
    read.clear()
    assert (run(setup, out, spec).new, read) == (0, [])


def test_shards_with_failures_are_read_again(setup: Setup, tmp_path: Path, read: list[str]) -> None:
    spec = write_shards(tmp_path / "in", SIZES)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with tarfile.open(tmp_path / "in/3.tar", "a") as tar:
        tar.add(bad, "bad.png")
    (tmp_path / "in/6.tar").unlink()
    out = tmp_path / "out"
    for _ in range(2):
        read.clear()
        done = run(setup, out, spec)
        assert done.failed == [f"{tmp_path}/in/3.tar:bad.png", f"{tmp_path}/in/6.tar"]
    assert read == ["3.tar"]


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_maps_that_are_gone_are_computed_again(
    how: str, setup: Setup, tmp_path: Path, read: list[str]
) -> None:
    spec = write_shards(tmp_path / "in", SIZES)
    out = tmp_path / "out"
    run(setup, out, spec)
    whole = maps_of(out)
    for name in whole:
        path = out / "maps" / name
        before = path.read_bytes()
        if how == "missing":
            path.unlink()
        else:
            path.write_bytes(before[:-1] + b"?")
        read.clear()
        assert run(setup, out, spec).new > 0
        assert len(read) == len(SIZES)
        assert len(set(contents(out))) == len(MapCache(out))
        read.clear()
        assert (run(setup, out, spec).new, read) == (0, [])


def test_a_damaged_ledger_is_dropped(setup: Setup, tmp_path: Path, read: list[str]) -> None:
    spec = write_shards(tmp_path / "in", SIZES)
    out = tmp_path / "out"
    run(setup, out, spec)
    file = min((out / "shards").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    read.clear()
    assert run(setup, out, spec).new == 0
    assert len(read) == len(SIZES)


@pytest.mark.slow
def test_stopped_after_any_image(setup: Setup, tmp_path: Path) -> None:
    setup.backend.company = True
    spec = write_shards(tmp_path / "in", SIZES)
    run(setup, tmp_path / "whole", spec)
    whole, made = maps_of(tmp_path / "whole"), setup.backend.seen
    for after in range(1, COUNT + 10, 4):
        out, stops = tmp_path / f"stopped-{after}", [False]

        def stop(stops: list[bool] = stops, after: int = after) -> bool:
            stops.append(len(stops) > after)
            return stops[-1]

        run(setup, out, spec, stop=stop)
        first = setup.backend.seen
        assert run(setup, out, spec).images == COUNT
        assert maps_of(out) == whole
        assert first + setup.backend.seen <= made + 4  # one unfinished batch


@pytest.mark.slow
@pytest.mark.usefixtures("either")
def test_killed_at_any_write(
    setup: Setup, tmp_path: Path, deaths: Deaths, new_life: Callable[[], None]
) -> None:
    """The files of maps are those of an undisturbed run, and no shard is left out."""
    setup.backend.company = True
    spec = write_shards(tmp_path / "in", SIZES)
    run(setup, tmp_path / "whole", spec)
    whole = maps_of(tmp_path / "whole")
    writes = 0
    for out in deaths.at_each_write(lambda out: run(setup, out, spec), tmp_path, new_life):
        assert run(setup, out, spec).images == COUNT
        assert maps_of(out) == whole, f"{out.name}"
        assert run(setup, out, spec).images == COUNT
        writes += 1
    assert writes > 31


@pytest.mark.usefixtures("either")
def test_parts_are_whole_shards_and_make_all_maps(
    setup: Setup, tmp_path: Path, read: list[str]
) -> None:
    spec = write_shards(tmp_path / "in", SIZES)
    run(setup, tmp_path / "whole", spec)
    read.clear()
    out = tmp_path / "parts"
    done = [run(setup, out, spec, (part, 4)).images for part in (2, 0, 3, 1)]
    assert sum(done) == COUNT
    assert sorted(read) == [f"{number}.tar" for number in range(len(SIZES))]
    read.clear()
    assert (run(setup, out, spec).new, read) == (0, [])
    assert set(contents(tmp_path / "whole")) == set(contents(out))


@pytest.mark.usefixtures("either")
def test_other_parts_after_a_stop_leave_nothing_out(setup: Setup, tmp_path: Path) -> None:
    """A shard whose maps are only in the journal of another part is not finished."""
    spec = write_shards(tmp_path / "in", SIZES)
    out, calls = tmp_path / "out", [0]

    def stop() -> bool:
        calls[0] += 1
        return calls[0] > 12

    run(setup, out, spec, (0, 2), stop)
    for part in range(3):
        run(setup, out, spec, (part, 3))
    run(setup, tmp_path / "whole", spec)
    assert len(MapCache(out)) == len(MapCache(tmp_path / "whole"))


def test_a_map_that_is_not_finite_keeps_its_shards_open(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_shards(tmp_path / "in", SIZES)
    find, calls = setup.backend.find, [0]

    def broken(images: Any) -> Any:
        found = find(images)
        calls[0] += 1
        if calls[0] == 3:
            found.maps[0] = float("nan")
        return found

    monkeypatch.setattr(setup.backend, "find", broken)
    first = run(setup, tmp_path / "out", spec)
    assert len(first.failed) == 1
    second = run(setup, tmp_path / "out", spec)
    assert (second.new, second.failed) == (1, [])
    assert run(setup, tmp_path / "out", spec).new == 0
