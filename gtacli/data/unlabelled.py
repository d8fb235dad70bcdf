"""Images for those who need no labels: a data set, or a folder with nothing but images in it."""

from __future__ import annotations

import logging
from pathlib import Path

from gtacli.data.base import ImageDataset, Record
from gtacli.data.files import find_images
from gtacli.data.spec import is_plain_folder, load_dataset
from gtacli.errors import GtaError

log = logging.getLogger(__name__)
NO_CLASS = ("",)


def load_images(spec: str) -> ImageDataset:
    """The data set that `spec` names. A folder without class folders is one too: all its images,
    or those of its train/, in a single class without a name.

    Raises GtaError where there is no image.
    """
    try:
        return load_dataset(spec)
    except GtaError:
        root = Path(spec).expanduser()
        if not is_plain_folder(spec):
            raise
        part = root / "train"
        found = find_images(part if part.is_dir() else root)
        if not found:
            raise
    log.info("%s has no class folders: %d images without labels", spec, len(found))
    records = (Record(path.relative_to(root).as_posix(), 0, path) for path in found)
    return ImageDataset(root.resolve().name, NO_CLASS, {"train": tuple(records)})


def has_labels(dataset: ImageDataset) -> bool:
    """Whether its labels tell images apart."""
    return len(dataset.classes) > 1
