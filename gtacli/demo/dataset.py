"""Readers `demo` and `demo-source`: datasets drawn once into the cache folder, then read from it.

The name of a dataset's folder contains a digest of the drawing code, so that a change of the code
draws anew. The folder is drawn under another name and renamed when it is complete. Beside the
images it holds their masks and `scenes.csv` (key, class, scenery).
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import ClassVar

from gtacli.data.base import DatasetReader, ImageDataset, Record
from gtacli.errors import GtaError
from gtacli.runtime.cache import cache_dir
from gtacli.runtime.drafts import draft_name, remove_dead_drafts
from gtacli.scenes.digest import drawing_digest
from gtacli.scenes.draw import draw_world
from gtacli.scenes.world import DEMO, DEMO_SOURCE, World

log = logging.getLogger(__name__)


class _WorldReader(DatasetReader):
    needs_root = False
    world: ClassVar[World]

    def read(self, root: Path | None) -> ImageDataset:
        """Read the dataset below `root`, or in the cache folder; draw it if it is absent."""
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


class Demo(_WorldReader):
    """The dataset of `gta demo`."""

    help = "built in: drawings of 12 fine-grained classes of creatures, with masks"
    world = DEMO


class DemoSource(_WorldReader):
    """The dataset on which the demo's source model was trained."""

    help = "built in: drawings of 48 classes of other creatures, the demo's source dataset"
    world = DEMO_SOURCE


def _draw_once(world: World, folder: Path) -> None:
    log.info("drawing the dataset '%s' into %s (once)", world.name, folder)
    start = perf_counter()
    with _errors_of(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_dead_drafts(folder.parent)
        draft = folder.parent / draft_name()
        draft.mkdir()
        try:
            draw_world(world, draft)
            try:
                draft.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process has drawn the same in between
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    log.info("drawn in %.1f s", perf_counter() - start)


@contextmanager
def _errors_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        text = f"cannot write to {folder}: {reason}; set GTA_CACHE to another folder"
        raise GtaError(text) from error
