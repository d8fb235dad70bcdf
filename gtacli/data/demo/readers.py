"""Readers `demo` and `demo-source`: drawn once into the cache folder, read from there after.

The folder's name holds a digest of the code that draws, so an old drawing is never taken for a new
one; it is written under another name and renamed when complete. Beside the images lie their masks
and `scenes.csv` (key, class, scenery).
"""

import csv
import hashlib
import logging
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import ClassVar

import numpy as np

from gtacli.data.base import SPLITS, DatasetReader, ImageDataset, Record
from gtacli.data.cache import cache_dir
from gtacli.data.demo.scene import paint
from gtacli.data.demo.world import DEMO, DEMO_SOURCE, World
from gtacli.data.machine import usable_cores
from gtacli.errors import GtaError

log = logging.getLogger(__name__)


class _Drawn(DatasetReader):
    needs_root = False
    world: ClassVar[World]

    def read(self, root: Path | None) -> ImageDataset:
        """`root` is where drawings are kept; the user's cache folder by default."""
        world = self.world
        folder = (root or cache_dir() / "data") / f"{world.name}-{drawing_digest()}"
        if not folder.is_dir():
            _draw_once(world, folder)
        classes = tuple(species.name for species in world.species)
        splits = {
            split: tuple(
                Record(key, label, folder / key, folder / "masks" / key)
                for label, name in enumerate(classes)
                for key in (f"{split}/{name}/{index:03d}.png" for index in range(count))
            )
            for split, count in world.counts.items()
        }
        return ImageDataset(world.name, classes, splits)


class Demo(_Drawn):
    help = "built in: 12 fine-grained kinds of little creatures, drawn, with masks"
    world = DEMO


class DemoSource(_Drawn):
    help = "built in: 48 kinds of other creatures, from which the demo's source model learnt"
    world = DEMO_SOURCE


def draw_world(world: World, folder: Path) -> None:
    """Write every image, mask and `scenes.csv` of `world` into the existing `folder`."""
    jobs = [
        (world, folder, split, label)
        for split in world.counts
        for label in range(len(world.species))
    ]
    cores = min(8, usable_cores())
    if "fork" in multiprocessing.get_all_start_methods() and cores > 1:
        # Forking needs no importable main module, as spawning would; elsewhere one process serves.
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(cores, context) as pool:
            drawn = list(pool.map(_draw_class, jobs))
    else:
        drawn = [_draw_class(job) for job in jobs]
    with (folder / "scenes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("key", "class", "scenery"))
        for rows in drawn:
            writer.writerows(rows)


def _draw_class(job: tuple[World, Path, str, int]) -> list[tuple[str, str, str]]:
    world, folder, split, label = job
    species = world.species[label]
    images, masks = folder / split / species.name, folder / "masks" / split / species.name
    for place in (images, masks):
        place.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(world.counts[split]):
        # Each image has its own stream: neither their order nor their number matters.
        rng = np.random.default_rng((world.seed, SPLITS.index(split), label, index))
        scenery = world.scenery(split, label, index)
        image, mask = paint(species, scenery, rng)
        image.save(images / f"{index:03d}.png", compress_level=1)
        mask.save(masks / f"{index:03d}.png", compress_level=1)
        rows.append((f"{split}/{species.name}/{index:03d}.png", species.name, scenery))
    return rows


def _draw_once(world: World, folder: Path) -> None:
    log.info("drawing the data set '%s' into %s (once)", world.name, folder)
    start = perf_counter()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{world.name}-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    try:
        draw_world(world, draft)
        draft.chmod(0o755)  # mkdtemp's is the owner's alone
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, and drew the same
                raise
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    log.info("drawn in %.1f s", perf_counter() - start)


def _unwritable(folder: Path, error: OSError) -> GtaError:
    reason = error.strerror or str(error)
    return GtaError(f"cannot write to {folder}: {reason}; set GTA_CACHE to another folder")


@cache
def drawing_digest() -> str:
    """Of the code that draws: another one, another drawing."""
    return digest_of(sorted(Path(__file__).parent.glob("*.py")))


def digest_of(files: Iterable[Path]) -> str:
    """First ten digits of the SHA-256 of the files' text, line ends aside."""
    digest = hashlib.sha256()
    for file in files:
        digest.update("\n".join(file.read_text(encoding="utf-8").splitlines()).encode())
    return digest.hexdigest()[:10]
