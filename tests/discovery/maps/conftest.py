"""A cache with a tiny model, a fast back-end and images of noise."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from gtacli.discovery import Discovery, ObjectMaps
from gtacli.discovery.base import unit_range
from gtacli.discovery.maps import MapCache, files, index, known
from gtacli.discovery.maps.journal import Journal
from gtacli.discovery.maps.writer import MapWriter
from gtacli.inference.discover import fill_cache, manifest_of
from gtacli.inference.objects import Finder
from gtacli.inference.stream import Failure
from gtacli.models import load_model
from gtacli.runtime.devices import Compute

NEVER = 10**9
GRID = 4  # of the tiny model, 32 pixels


class Bright(Discovery[Any]):
    """The mean brightness of each patch; counts the images that it has processed.

    With `company` a map depends on the other images of its batch, an exaggerated rounding error.
    """

    seen = 0
    company = False

    def find(self, images: Tensor) -> ObjectMaps:
        self.seen += len(images)
        maps = adaptive_avg_pool2d(images.mean(1), GRID)
        if self.company:
            maps = maps + torch.arange(len(maps))[:, None, None] * maps.mean(0) * maps.flip(1)
        return ObjectMaps(unit_range(maps))


def noise(folder: Path, count: int, seed: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{i:03}.png" for i in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
    return paths


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file by its path; not of indexes, which repeat what these say."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and index.INDEX not in p.relative_to(folder).parts
    }


def contents(folder: Path) -> list[bytes]:
    """Return the digest of each map's image, in order."""
    return sorted(bytes(one) for part in MapCache(folder).parts() for one in part["digest"])


class FillResult(NamedTuple):
    """The result of filling a cache: images processed, maps computed, names of failed images."""

    images: int
    new: int
    failed: list[str]


class Setup:
    """A writer of maps for images, as in `gta discover`."""

    def __init__(self, spec: str) -> None:
        model = load_model(spec)
        compute = Compute(torch.device("cpu"), torch.float32)
        self.backend = Bright(Bright.Options(), model.model.requires_grad_(False))
        self.manifest = manifest_of(model, "bright", self.backend, compute)
        self.finder = Finder(model, self.backend, compute)

    def writer(self, folder: Path, share: tuple[int, int] = (0, 1), block: int = 8) -> MapWriter:
        return MapWriter(folder, self.manifest, block, share)

    def run(
        self,
        folder: Path,
        images: Sequence[Path],
        share: tuple[int, int] = (0, 1),
        stop: Callable[[], bool] = lambda: False,
        threads: int = 0,
    ) -> FillResult:
        """Compute the maps of images; return the sum of all steps."""
        self.backend.seen = 0
        steps, failed = [], []
        for step in fill_cache(self.finder, images, self.writer(folder, share), 4, threads, stop):
            if isinstance(step, Failure):
                failed.append(Path(step.image).name)
            else:
                steps.append(step)
        done = sum(s.images for s in steps) + len(failed)
        return FillResult(done, sum(s.new for s in steps), failed)


class Killed(BaseException):
    """A simulated kill: no handler runs after it."""


class Deaths:
    """Kills at a write: before or after the `left`-th one from now on."""

    def __init__(self) -> None:
        self.left = NEVER

    def before_and_after(self, inner: Any) -> Any:
        def call(*args: Any) -> Any:
            self._count()
            done = inner(*args)
            self._count()
            return done

        return call

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def at_each_write(
        self, run: Callable[[Path], object], place: Path, new_life: Callable[[], None]
    ) -> Iterator[Path]:
        """Yield the caches of runs that were killed at their first, second, ... write; the last
        one was not."""
        for at in itertools.count(1):
            out = place / f"killed-{at}"
            self.left = at
            with contextlib.suppress(Killed):
                run(out)
            finished = self.left > 0
            self.left = NEVER
            new_life()
            yield out
            if finished:
                return


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> Deaths:
    """All writes of a cache may be the last ones."""
    deaths = Deaths()
    deadly = deaths.before_and_after

    def put(path: Path, data: bytes, draft: Path) -> Path:
        """Write a file without clean-up after exceptions, as in a kill."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data[: len(data) // 2])
        deadly(draft.write_bytes)(data)
        deadly(draft.replace)(path)
        return path

    close = MapWriter.close

    def close_unless_killed(writer: MapWriter, done: bool) -> None:
        if deaths.left > 0:
            deadly(close)(writer, done)
        else:
            writer._journal._file.close()  # as the kernel does after a kill
            writer._journal._lock.close()

    monkeypatch.setattr(files, "put", put)
    monkeypatch.setattr(Journal, "append", deadly(Journal.append))
    monkeypatch.setattr(Journal, "clear", deadly(Journal.clear))
    monkeypatch.setattr(MapWriter, "close", close_unless_killed)
    return deaths


@pytest.fixture
def setup(tiny_model: Path) -> Setup:
    return Setup(str(tiny_model))


@pytest.fixture(params=[pytest.param("plain", marks=pytest.mark.slow), "indexed"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Without indexes, and with one as soon as there are two files."""
    if request.param == "indexed":
        monkeypatch.setattr(index, "MANY_FILES", 2)
        monkeypatch.setattr(known, "MANY_FILES", 1)
    return str(request.param)
