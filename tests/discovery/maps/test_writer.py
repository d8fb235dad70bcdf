"""Tests that a cache does not depend on interruptions while it is filled."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gtacli.discovery.maps import MapCache, writer
from gtacli.discovery.maps.digests import SIZE
from gtacli.discovery.maps.manifest import check_manifest
from gtacli.discovery.maps.writer import MapWriter, block_size
from gtacli.errors import GtaError, UsageError
from gtacli.images.decode import decode
from gtacli.inference.discover import fill_cache

from .conftest import Deaths, Setup, hashes, noise


def some_images(folder: Path) -> list[Path]:
    """Return images with duplicates, unreadable ones, and a repeated path."""
    images = noise(folder, 30)
    for copy, original in ((3, 1), (20, 2), (21, 2), (29, 28)):
        shutil.copy(images[original], images[copy])
    images[5].write_bytes(b"no image")
    images[17].write_bytes(images[17].read_bytes()[:100])
    return [*images[:25], images[4], *images[25:], folder / "missing.png"]


def test_maps_equal_backend_output(setup: Setup, tmp_path: Path) -> None:
    images = some_images(tmp_path / "in")
    step = setup.run(tmp_path / "out", images, threads=2)
    assert step.images == 32
    assert step.new == setup.backend.seen == 24  # 30 less 4 duplicates, 2 unreadable
    assert step.failed == ["005.png", "017.png", "missing.png"]
    cache = MapCache(tmp_path / "out")
    assert len(cache) == 24
    rows = cache.rows(images)
    assert [images[i].name for i in np.flatnonzero(rows < 0)] == step.failed
    for path, row in zip(images, rows, strict=True):
        if row < 0:
            continue
        view = setup.finder.view(decode(path))[None]
        exact = setup.backend.find(setup.finder.as_input(view)).maps[0].numpy()
        assert cache[int(row)].dtype == np.uint8
        assert np.abs(cache[int(row)] / 255 - exact).max() <= 0.5 / 255 + 1e-6
        found = cache.find(path.read_bytes())
        assert found is not None
        assert (found == cache[int(row)]).all()


@pytest.mark.usefixtures("either")
def test_run_stopped_after_any_image(setup: Setup, tmp_path: Path) -> None:
    setup.backend.company = True
    images = some_images(tmp_path / "in")
    setup.run(tmp_path / "whole", images)
    whole, made = hashes(tmp_path / "whole"), setup.backend.seen
    for after in range(1, 36, 3):
        out, stops = tmp_path / f"stopped-{after}", [False]

        def stop(stops: list[bool] = stops, after: int = after) -> bool:
            stops.append(len(stops) > after)
            return stops[-1]

        setup.run(out, images, stop=stop)
        assert len(list(out.glob("journal-*"))) == stops[-1]
        first = setup.backend.seen
        setup.run(out, images)
        assert hashes(out) == whole
        assert first + setup.backend.seen <= made + 4  # one unfinished batch


@pytest.mark.usefixtures("either")
def test_run_killed_at_any_write(
    setup: Setup, tmp_path: Path, deaths: Deaths, new_life: Callable[[], None]
) -> None:
    setup.backend.company = True
    images = some_images(tmp_path / "in")
    setup.run(tmp_path / "whole", images)
    whole = hashes(tmp_path / "whole")
    writes = 0
    for out in deaths.at_each_write(lambda out: setup.run(out, images), tmp_path, new_life):
        setup.run(out, images)
        assert hashes(out) == whole, f"{out.name}"
        writes += 1
    assert writes > 31


@pytest.mark.usefixtures("either")
def test_shared_runs_equal_one_run(setup: Setup, tmp_path: Path) -> None:
    setup.backend.company = True
    images = noise(tmp_path / "in", 45)
    setup.run(tmp_path / "whole", images)
    for share in ((2, 3), (0, 3), (1, 3)):
        step = setup.run(tmp_path / "shared", images, share)
        assert 0 < step.new < 45
    assert hashes(tmp_path / "shared") == hashes(tmp_path / "whole")
    again = setup.run(tmp_path / "shared", images)
    assert (again.images, again.new, setup.backend.seen) == (45, 0, 0)


def after(calls: int) -> Callable[[], bool]:
    """Return a function that asks to stop from its call with this number on."""
    numbers = itertools.count()
    return lambda: next(numbers) >= calls


@pytest.mark.parametrize("count", [1, 3, 8])
def test_batches_of_a_run_are_full_whatever_its_blocks(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Blocks of 3 and batches of 4: each run has one batch at most that is not full."""
    images, sizes = noise(tmp_path / "in", 45), list[int]()
    find = setup.backend.find

    def noted(batch: torch.Tensor) -> Any:
        sizes.append(len(batch))
        return find(batch)

    monkeypatch.setattr(setup.backend, "find", noted)
    for number in range(count):
        sizes.clear()
        cache = setup.writer(tmp_path / "out", (number, count), block=3)
        for _ in fill_cache(setup.finder, images, cache, 4, 0):
            pass
        assert all(size == 4 for size in sizes[:-1])
        assert not [*(tmp_path / "out").glob("journal-*")]
    cache = setup.writer(tmp_path / "whole", block=3)
    for _ in fill_cache(setup.finder, images, cache, 5, 0):
        pass
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_a_run_of_all_images_takes_over_what_ended_parts_have_left(
    setup: Setup, tmp_path: Path
) -> None:
    images, out = noise(tmp_path / "in", 45), tmp_path / "out"
    setup.run(tmp_path / "whole", images)
    made = 0
    for number in (0, 2):
        setup.run(out, images, (number, 3), stop=after(7))
        made += setup.backend.seen
    (out / ".gta-lock-journal-1-of-3").touch()  # of a part that was killed as it ended
    at_work = setup.writer(out, (5, 7))
    assert len([*out.glob("journal-*")]) == 3
    assert setup.run(out, images).new == 45 - made
    assert len([*out.glob("*journal-*")]) == 2  # the journal that has an owner, and its lock
    at_work.close(done=True)
    assert hashes(out) == hashes(tmp_path / "whole")


def test_maps_of_other_images_in_a_journal_are_not_lost(setup: Setup, tmp_path: Path) -> None:
    images, out = noise(tmp_path / "in", 20), tmp_path / "out"
    setup.run(out, images, stop=after(6))
    setup.run(out, noise(tmp_path / "other", 9, seed=1))
    assert setup.run(out, images).new == 16


def test_maps_of_a_damaged_file_are_computed_again(setup: Setup, tmp_path: Path) -> None:
    images = some_images(tmp_path / "in")
    out = tmp_path / "out"
    setup.run(out, images)
    whole = hashes(out)
    for file in [*sorted((out / "maps").iterdir()), *sorted((out / "seen").iterdir())]:
        data = bytearray(file.read_bytes())
        data[-3] ^= 4
        file.write_bytes(data)
        with pytest.raises(GtaError, match=f"{file.name} is damaged"):
            MapCache(out)
        damaged = MapCache(out, skip_damaged=True)
        assert damaged.damaged == [file]
        lost = len(np.load(file)) if file.parent.name == "maps" else 0
        step = setup.run(out, images)
        assert step.new == setup.backend.seen == lost
        assert hashes(out) == whole


def test_files_of_other_names_are_left_alone(setup: Setup, tmp_path: Path) -> None:
    """They are no part of the cache: neither damage in it, nor deleted."""
    images = noise(tmp_path / "in", 9)
    out = tmp_path / "out"
    setup.run(out, images)
    opened = MapCache(out, check=True)
    others = [out / folder / "mine.npy" for folder in ("maps", "seen")]
    others += [out / "maps/.0.npy", out / "maps" / f"{0:031}.npy"]
    for path in others:
        path.write_bytes(b"mine")
    assert setup.run(out, noise(tmp_path / "other", 9, seed=1)).new == 9
    assert all(path.read_bytes() == b"mine" for path in others)
    assert MapCache(out, check=True).damaged == []
    assert len(MapCache(out)) == len(opened) + 9


@pytest.mark.usefixtures("either")
def test_unrepaired_damaged_files_are_deleted(setup: Setup, tmp_path: Path) -> None:
    images = noise(tmp_path / "in", 20)
    out = tmp_path / "out"
    setup.run(out, images)
    (file, *_) = sorted((out / "maps").iterdir())
    file.write_bytes(b"nothing")
    for image in images:
        image.unlink()
    other = noise(tmp_path / "other", 9, seed=1)
    setup.run(out, other)
    assert not file.exists()
    assert (MapCache(out).rows(other) >= 0).all()


@pytest.mark.usefixtures("either")
def test_only_new_images_are_processed(setup: Setup, tmp_path: Path) -> None:
    images = noise(tmp_path / "in", 40)
    out = tmp_path / "out"
    setup.run(out, images[:20])
    before = MapCache(out).rows(images[:20])
    assert (before >= 0).all()
    maps = [MapCache(out)[int(row)] for row in before]
    step = setup.run(out, images)
    assert (step.images, step.new, setup.backend.seen) == (40, 20, 20)
    cache = MapCache(out)
    rows = cache.rows(images)
    assert (rows >= 0).all()
    assert all((cache[int(r)] == m).all() for r, m in zip(rows, maps, strict=False))


@pytest.mark.usefixtures("either")
def test_moved_images_keep_their_maps_and_changed_ones_get_new_ones(
    setup: Setup, tmp_path: Path
) -> None:
    images = noise(tmp_path / "in", 20)
    out = tmp_path / "out"
    setup.run(out, images)
    moved = [tmp_path / "in" / f"x-{path.name}" for path in images]
    for path, new in zip(images, moved, strict=True):
        path.rename(new)
    step = setup.run(out, moved)
    assert (step.images, step.new, setup.backend.seen) == (20, 0, 0)
    shutil.copy(moved[0], moved[7])  # another image with the name of this one
    noise(tmp_path / "fresh", 1, seed=5)[0].replace(moved[9])
    cache = MapCache(out)
    rows = cache.rows(moved)
    assert rows[7] == rows[0] >= 0
    assert [i for i, row in enumerate(rows) if row < 0] == [9]
    step = setup.run(out, moved)
    assert step.new == setup.backend.seen == 1


@pytest.mark.usefixtures("either")
def test_repaired_images_are_retried(setup: Setup, tmp_path: Path) -> None:
    images = noise(tmp_path / "in", 12)
    whole = images[6].read_bytes()
    images[6].write_bytes(whole[:50])
    out = tmp_path / "out"
    assert len(setup.run(out, images).failed) == 1
    assert len(setup.run(out, images).failed) == 1
    images[6].write_bytes(whole)
    step = setup.run(out, images)
    assert (step.new, step.failed) == (1, [])
    assert (MapCache(out).rows(images) >= 0).all()


def test_maps_with_another_manifest_are_rejected(setup: Setup, tmp_path: Path) -> None:
    images = noise(tmp_path / "in", 3)
    out = tmp_path / "out"
    setup.run(out, images)
    before = hashes(out)
    for change, words in (
        ({"options": {"layer": -6}}, r"other settings \(layer -1, here -6\)"),
        ({"backend": "dino"}, r'\(backend "bright", here "dino"\)'),
        ({"backend_version": 2}, r"\(backend version 1, here 2\)"),
        ({"fingerprint": "0"}, "another network"),
        ({"image_size": (64, 32)}, r"\(image size \[32, 32\], here \[64, 32\]\)"),
        ({"precision": "bf16"}, r'\(precision "fp32", here "bf16"\)'),
        ({"method": 2}, r"\(method 1, here 2\)"),
        ({"options": {"layer": -1, "tau": 0.1}}, r"\(tau none, here 0.1\)"),
    ):
        other = setup.manifest.model_copy(update=change)
        with pytest.raises(UsageError, match=words):
            MapWriter(out, other, 8)
    check_manifest(
        out, setup.manifest, setup.manifest.model_copy(update={"model": "by another name"})
    )
    assert hashes(out) == before


def test_cache_locked_by_another_run(setup: Setup, tmp_path: Path) -> None:
    first = setup.writer(tmp_path / "out")
    with pytest.raises(UsageError, match="is in use by gta discover"):
        setup.writer(tmp_path / "out")
    setup.writer(tmp_path / "out", (1, 2)).close(done=True)
    first.close(done=True)


def test_nonfinite_maps(setup: Setup, tmp_path: Path) -> None:
    images = noise(tmp_path / "in", 10)
    find = setup.backend.find

    def nonfinite(batch: torch.Tensor) -> Any:
        found = find(batch)
        found.maps[1, 0, 0] = torch.nan
        return found

    setup.backend.find = nonfinite  # type: ignore[method-assign]
    step = setup.run(tmp_path / "out", images)
    assert step.images == 10
    assert step.failed == ["001.png", "005.png", "009.png"]
    assert len(MapCache(tmp_path / "out")) == step.new == 7
    assert (MapCache(tmp_path / "out").rows(images) < 0).sum() == 3


def test_many_nonfinite_maps_take_no_longer_each(setup: Setup, tmp_path: Path) -> None:
    writer = setup.writer(tmp_path / "out", block=20_000)
    digests = [number.to_bytes(SIZE, "big") for number in range(12_000)]
    started = time.process_time()
    for digest in digests:
        assert writer.enter(digest, digest)
    for digest in digests:
        writer.drop(digest)
    writer.end_block(last=True)
    writer.close(done=True)
    assert time.process_time() - started < 2
    assert not any((tmp_path / "out" / "seen").glob("*"))


def test_cache_that_cannot_be_begun_leaves_nothing(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "put", full)
    with pytest.raises(GtaError, match="No space left on device"):
        setup.writer(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_maps_on_another_grid(setup: Setup, tmp_path: Path) -> None:
    find = setup.backend.find
    setup.backend.find = lambda batch: type(f := find(batch))(f.maps[:, 1:])  # type: ignore[method-assign]
    with pytest.raises(GtaError, match="maps are 3x4, not on the model's patch grid 4x4"):
        setup.run(tmp_path / "out", noise(tmp_path / "in", 2))


@pytest.mark.parametrize(
    ("images", "wanted"), [(1, 8), (256, 8), (500, 16), (19_000, 594), (10**6, 4096)]
)
def test_block_sizes(images: int, wanted: int) -> None:
    assert block_size(images) == wanted


def test_damaged_manifests(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    setup.run(out, noise(tmp_path / "in", 2))
    manifest = out / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"format": 1', '"format": 7'))
    with pytest.raises(GtaError, match="has maps of format 7; this version reads 1"):
        MapCache(out)
    for broken in ("", "[]", text[: len(text) // 2], text.replace("grid", "gird")):
        manifest.write_text(broken)
        with pytest.raises(GtaError, match=r"manifest.json is damaged"):
            MapCache(out)
    manifest.unlink()
    with pytest.raises(GtaError, match="has no maps of gta discover"):
        MapCache(out)
