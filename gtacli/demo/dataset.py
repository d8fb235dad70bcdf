"""Readers `demo` and `demo-source`: drawn once into the cache folder, read from there after.

The folder's name holds a digest of the code that draws, so an old drawing is never taken for a new
one; it is written under another name and renamed when complete. Beside the images lie their masks
and `scenes.csv` (key, class, scenery).
"""

import logging
import shutil
import tempfile
from pathlib import Path
from time import perf_counter
from typing import ClassVar

from gtacli.data.base import DatasetReader, ImageDataset, Record
from gtacli.errors import GtaError
from gtacli.runtime.cache import cache_dir
from gtacli.scenes.digest import drawing_digest
from gtacli.scenes.draw import draw_world
from gtacli.scenes.world import DEMO, DEMO_SOURCE, World

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
