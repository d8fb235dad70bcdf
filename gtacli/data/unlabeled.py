"""Datasets for tasks without labels: labeled datasets, folders of images, tables and shards."""

from __future__ import annotations

import logging
from pathlib import Path

from gtacli.data.base import NO_CLASS, SPLIT_NAMES, ImageDataset, Record
from gtacli.data.readers.shards import Shards
from gtacli.data.readers.table import Csv
from gtacli.data.spec import is_plain_folder, load_dataset
from gtacli.errors import GtaError
from gtacli.images.find import find_images, list_subfolders, relative_keys

log = logging.getLogger(__name__)
_WDS = "wds/"


def load_images(spec: str) -> ImageDataset:
    """Load the dataset that `spec` names, with or without labels.

    A dataset without labels has a single class without a name. It is a folder without class folders
    (the images of its train/, or all except those of its val/ and test/), a table without labels,
    or WebDataset shards.

    Raises GtaError if there is no image.
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
        # An error here is not about labels, so it is raised.
        return Csv().images(Path(spec).expanduser())
    if spec.startswith(_WDS):
        try:
            return Shards().images(spec.removeprefix(_WDS))
        except GtaError:
            return None
    return _images_in_folder(Path(spec).expanduser()) if is_plain_folder(spec) else None


def _images_in_folder(root: Path) -> ImageDataset | None:
    splits = {folder: SPLIT_NAMES.get(folder.name.lower()) for folder in list_subfolders(root)}
    training = [folder for folder, split in splits.items() if split == "train"]
    others = [folder for folder, split in splits.items() if split in ("val", "test")]
    found = find_images(training[0] if training else root)
    records = tuple(
        Record(key, 0, path)
        for key, path in zip(relative_keys(found, root), found, strict=True)
        if not (others and any(path.is_relative_to(other) for other in others))
    )
    return ImageDataset(root.resolve().name, NO_CLASS, {"train": records}) if records else None


def has_labels(dataset: ImageDataset) -> bool:
    """Return whether the dataset has more than one class."""
    return len(dataset.classes) > 1
