"""Images for those who need no labels: a data set, or a folder with nothing but images in it."""

from __future__ import annotations

import logging
from pathlib import Path

from gtacli.data.base import NO_CLASS, SPLIT_NAMES, ImageDataset, Record
from gtacli.data.readers.shards import Shards
from gtacli.data.readers.table import Csv
from gtacli.data.spec import is_plain_folder, load_dataset
from gtacli.errors import GtaError
from gtacli.images.find import find_images, subfolders

log = logging.getLogger(__name__)
_WDS = "wds/"


def load_images(spec: str) -> ImageDataset:
    """The data set that `spec` names. One without labels is one too, in a single class without a
    name: a folder without class folders (the images of its train/, or all but those of its val/
    and test/), tables without labels, and WebDataset shards.

    Raises GtaError where there is no image.
    """
    try:
        return load_dataset(spec)
    except GtaError as error:
        found = _without_labels(spec)
        if found is None:
            raise
        flat = all("/" not in record.key.removeprefix("train/") for record in found["train"])
        why = "" if flat else f" ({error})"
        log.info("%s: %d images, without labels%s", spec, len(found["train"]), why)
        return found


def _without_labels(spec: str) -> ImageDataset | None:
    if spec.lower().endswith(".csv"):
        # What is wrong here has nothing to do with labels.
        return Csv().images(Path(spec).expanduser())
    if spec.startswith(_WDS):
        try:
            return Shards().images(spec.removeprefix(_WDS))
        except GtaError:
            return None
    return _in_folder(Path(spec).expanduser()) if is_plain_folder(spec) else None


def _in_folder(root: Path) -> ImageDataset | None:
    parts = {folder: SPLIT_NAMES.get(folder.name.lower()) for folder in subfolders(root)}
    training = [folder for folder, part in parts.items() if part == "train"]
    others = [folder for folder, part in parts.items() if part in ("val", "test")]
    records = tuple(
        Record(path.relative_to(root).as_posix(), 0, path)
        for path in find_images(training[0] if training else root)
        if not any(path.is_relative_to(other) for other in others)
    )
    return ImageDataset(root.resolve().name, NO_CLASS, {"train": records}) if records else None


def has_labels(dataset: ImageDataset) -> bool:
    """Whether its labels tell images apart."""
    return len(dataset.classes) > 1
