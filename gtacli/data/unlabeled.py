"""Datasets for tasks without labels: labeled datasets, folders of images, tables and shards."""

from __future__ import annotations

import logging
from pathlib import Path

from gtacli.data.base import NO_CLASS, SPLIT_NAMES, ImageDataset, Record
from gtacli.data.readers.folder import describe_passed
from gtacli.data.readers.shards import Shards
from gtacli.data.readers.split_folders import find_splits
from gtacli.data.readers.table import Csv
from gtacli.data.spec import is_plain_folder, is_table_spec, load_dataset, log_left_out
from gtacli.errors import GtaError
from gtacli.images.find import list_image_paths, list_subfolders, prefix_of, relative_keys
from gtacli.runtime.collection import without_collection
from gtacli.runtime.paths import user_path

log = logging.getLogger(__name__)
_WDS = "wds/"


@without_collection()
def load_images(spec: str) -> ImageDataset:
    """Load the dataset that `spec` names, with or without labels.

    A dataset without labels has a single class without a name. It is a folder without class folders
    (the images of its train/, or all except those of its val/ and test/), a table with rows without
    labels, or WebDataset shards.

    Raises GtaError if there is no image.
    """
    if is_table_spec(spec):
        table = Csv().images(user_path(spec))
        log_left_out(table)
        return table
    try:
        return load_dataset(spec)
    except GtaError as error:
        found = _without_labels(spec)
        if found is None:
            raise
        flat = all("/" not in record.key.removeprefix("train/") for record in found["train"])
        why = "" if flat else f" ({error})"
        log.info("%s: %d images, without labels%s", spec, len(found["train"]), why)
        log_left_out(found)
        return found


def _without_labels(spec: str) -> ImageDataset | None:
    if spec.startswith(_WDS):
        try:
            return Shards().images(spec.removeprefix(_WDS))
        except GtaError:
            return None
    return _images_in_folder(user_path(spec)) if is_plain_folder(spec) else None


def _images_in_folder(root: Path) -> ImageDataset | None:
    try:
        splits = find_splits(root).splits
    except GtaError:
        splits = {}
    # Test images are not used even where their folder could be a class, or is one of several.
    named = [(SPLIT_NAMES.get(one.name.lower()), one) for one in list_subfolders(root)]
    named += splits.items()
    passed: list[str] = []
    training = [folder for split, folder in named if split == "train"]
    found = list_image_paths(training[0] if training else root, passed)
    others = tuple(prefix_of(str(one)) for split, one in named if split in ("val", "test"))
    used = [path for path in found if not path.startswith(others)]
    records = tuple(
        Record(key, 0, path) for key, path in zip(relative_keys(used, root), used, strict=True)
    )
    if not records:
        return None
    left_out = describe_passed(passed, root)
    return ImageDataset(root.resolve().name, NO_CLASS, {"train": records}, left_out=left_out)


def has_labels(dataset: ImageDataset) -> bool:
    """Return whether the dataset has more than one class."""
    return len(dataset.classes) > 1
