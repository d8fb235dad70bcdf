"""Datasets for tasks without labels: labeled datasets, folders of images, tables and shards."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gtacli.data.base import NO_CLASS, SPLIT_NAMES, ImageDataset, Record
from gtacli.data.readers.folder import describe_passed
from gtacli.data.readers.published import require_images
from gtacli.data.readers.split_folders import find_splits
from gtacli.data.readers.table import Csv, has_tables, split_spec
from gtacli.data.spec import (
    find_family,
    is_plain_folder,
    is_table_spec,
    load_dataset,
    log_left_out,
    read_dataset,
)
from gtacli.errors import GtaError
from gtacli.images.find import list_image_paths, list_subfolders, prefix_of, relative_keys
from gtacli.runtime.collection import without_collection
from gtacli.runtime.paths import user_path

log = logging.getLogger(__name__)
_TABLE, _FOLDER = "csv:", "folder:"


def load_images(spec: str, every_split: bool = False) -> ImageDataset:
    """Load the dataset that `spec` names, with or without labels.

    A dataset without labels has a single class without a name. It is a folder without class
    folders, a table with rows without labels, WebDataset shards, or a dataset of a family that can
    be read without (`DatasetFamily.images`).

    Args:
        every_split: whether all images of a dataset without labels are read, or those alone that
            may be trained on: of a folder those of its train/, or all except those of its val/ and
            test/. Tables keep all splits.

    Raises GtaError if there is no image, or if one of a published dataset is missing.
    """
    dataset = read_images(spec, every_split)
    require_images(dataset)
    log_left_out(dataset)
    return dataset


def load_with_labels(spec: str) -> ImageDataset:
    """Load a dataset with its labels; without them, as `load_images` does, where it has none."""
    try:
        return load_dataset(spec)
    except GtaError:
        return load_images(spec, every_split=True)


@without_collection()
def read_images(spec: str, every_split: bool = False) -> ImageDataset:
    """Like `load_images`, but do not check that the images of a published dataset exist."""
    tables = _tables(spec)
    if tables is not None:
        return _told(spec, Csv().images(tables))
    try:
        return read_dataset(spec)
    except GtaError as error:
        found = _without_labels(spec, every_split)
        if found is None:
            raise
        flat = all("/" not in r.key.removeprefix("train/") for _, r in found.records())
        return _told(spec, found, "" if flat else f" ({error})")


def _told(spec: str, found: ImageDataset, why: str = "") -> ImageDataset:
    if found.classes == NO_CLASS:
        count = sum(1 for _ in found.records())
        log.info("%s: %d images, without labels%s", spec, count, why)
    return found


def _tables(spec: str) -> Path | None:
    """Return what names tables in a spec: files, or a folder with some; None without any."""
    if spec.startswith(_TABLE):
        return user_path(spec.removeprefix(_TABLE))
    if is_table_spec(spec):
        return user_path(spec)
    spec = spec.removeprefix(_FOLDER)
    folder, columns = split_spec(spec)
    if not os.path.isdir(user_path(folder)):
        return None
    listed = is_plain_folder(folder) and has_tables(user_path(folder), needs_label=False)
    return user_path(spec) if columns or listed else None


def _without_labels(spec: str, every_split: bool) -> ImageDataset | None:
    family = find_family(spec)
    if family is not None:
        try:
            return family.images(spec.partition("/")[2], every_split)
        except GtaError:
            return None
    spec = spec.removeprefix(_FOLDER)
    return _images_in_folder(user_path(spec), every_split) if is_plain_folder(spec) else None


def _images_in_folder(root: Path, every_split: bool) -> ImageDataset | None:
    try:
        splits = find_splits(root).splits
    except GtaError:
        splits = {}
    # Test images are not trained on even where their folder could be a class, or is one of several.
    named = [(SPLIT_NAMES.get(one.name.lower()), one) for one in list_subfolders(root)]
    named += splits.items()
    prefixes = [(prefix_of(str(one)), split) for split, one in named if split in ("val", "test")]
    training = [folder for split, folder in named if split == "train"]
    only_training = bool(training) and not every_split
    passed: list[str] = []
    found = list_image_paths(training[0] if only_training else root, passed)
    records: dict[str, list[Record]] = {}
    others = tuple(prefix for prefix, _ in prefixes)
    for key, path in zip(relative_keys(found, root), found, strict=True):
        split = "train"
        if path.startswith(others):  # of a million images few are
            split = next(split for prefix, split in prefixes if path.startswith(prefix))
        if split == "train" or every_split:
            records.setdefault(split, []).append(Record(key, 0, path))
    if not records:
        return None
    left_out = describe_passed(passed, root)
    by_split = {split: tuple(part) for split, part in records.items()}
    return ImageDataset(root.resolve().name, NO_CLASS, by_split, left_out=left_out)


def has_labels(dataset: ImageDataset) -> bool:
    """Return whether the dataset has more than one class."""
    return len(dataset.classes) > 1
