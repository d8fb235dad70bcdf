"""Data specs, the values of the option `data`.

A spec is a folder (its layout is recognized by its content), one or several tables joined by
commas (`train.csv,test.csv`; `birds.csv?image=photo,label=kind` names columns), a name of the
registry `gta.datasets`, `NAME:ROOT`, or `FAMILY/REST` of a family (`torch/pets:ROOT`). The name of
a family, or of a reader that needs no root (`demo`), takes precedence over a folder of the same
name in the working directory; `./demo` is the folder.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gtacli.data.base import DatasetFamily, DatasetReader, ImageDataset, StreamedFamily
from gtacli.data.readers.aircraft import Aircraft
from gtacli.data.readers.cars import Cars
from gtacli.data.readers.cub import CUB
from gtacli.data.readers.dogs import Dogs
from gtacli.data.readers.folder import Folder
from gtacli.data.readers.hfds import HuggingFace
from gtacli.data.readers.pets import Pets
from gtacli.data.readers.published import require_images
from gtacli.data.readers.table import Csv, has_tables, split_spec
from gtacli.data.readers.table_file import is_table
from gtacli.errors import GtaError, UsageError
from gtacli.runtime.collection import without_collection
from gtacli.runtime.paths import user_path
from gtacli.runtime.secrets import mask_secrets

if TYPE_CHECKING:
    from gtacli.data.streams.stream import ImageStream

log = logging.getLogger(__name__)
LAYOUTS = (CUB, Dogs, Cars, Aircraft, Pets)
"""Layouts that are recognized in a folder by the names of their lists."""
# Two letters at least, so that a Windows drive (`C:\birds`) is a path.
_OTHER_FILES = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the table as CSV"),
    **dict.fromkeys((".zip", ".gz", ".tgz", ".7z", ".rar"), "unpack it and give the folder"),
}
_NAMED = re.compile(r"(?P<name>[\w/.-]*[\w.-]{2}):(?P<root>.*)", re.DOTALL)


def load_dataset(spec: str, multi_label: bool = False) -> ImageDataset:
    """Read the dataset that `spec` names.

    Args:
        multi_label: whether its images have any number of labels, else one class each.

    Raises GtaError if it cannot be read, if it has other labels, or if an image of a published
    dataset is missing.
    """
    dataset = read_dataset(spec, multi_label)
    require_images(dataset)
    log_left_out(dataset)
    return dataset


def find_stream(spec: str) -> ImageStream | None:
    """Return the stream of images that `spec` names; None for what is listed as a whole.

    Raises GtaError for shards that cannot be read as one.
    """
    family = find_family(spec)
    if not isinstance(family, StreamedFamily):
        return None
    _note_folder(spec, user_path(spec))
    stream = family.stream(spec.partition("/")[2])
    stream.name = mask_secrets(spec)
    return stream


def find_family(spec: str) -> DatasetFamily | None:
    """Return the reader of a spec `FAMILY/REST`; None for other specs."""
    from gtacli.registry import DATASETS

    family, slash, _ = spec.partition("/")
    if not slash or family not in DATASETS.names():
        return None
    reader = DATASETS.load(family)()
    return reader if isinstance(reader, DatasetFamily) else None


def log_left_out(dataset: ImageDataset) -> None:
    """Log what a dataset's reader has passed over."""
    for one in dataset.left_out:
        log.log(logging.INFO if one.harmless else logging.WARNING, "left out: %s", one)


@without_collection()
def read_dataset(spec: str, multi_label: bool = False) -> ImageDataset:
    """Like `load_dataset`, but do not check that the images of a published dataset exist."""
    dataset = _read(spec, multi_label)
    if multi_label and not dataset.multi_label:
        text = f"{spec} has one class for each image; several are read of tables and hfds/"
        raise UsageError(text, option="multi_label")
    if dataset.multi_label and not multi_label:
        text = f"{spec} has any number of labels for each image; read them with `multi_label`"
        raise GtaError(text, option="data")
    return dataset


def _read(spec: str, multi_label: bool) -> ImageDataset:
    # Late: the registry validates what it loads against this package's DatasetReader.
    from gtacli.registry import DATASETS

    if not spec.strip():
        raise GtaError("the data spec is empty: give a folder, a .csv or the name of a dataset")
    path = user_path(spec)
    names = DATASETS.names()
    if spec in names:
        reader: DatasetReader = DATASETS.load(spec)()
        if not (reader.needs_root and os.path.exists(path)):
            _note_folder(spec, path)
            return reader.read(None)
    family, slash, rest = spec.partition("/")
    if slash and family in names:
        kind = DATASETS.load(family)
        reader = HuggingFace(multi_label) if issubclass(kind, HuggingFace) else kind()
        if isinstance(reader, DatasetFamily):
            _note_folder(spec, path)
            return reader.open(rest)
    if os.path.isdir(path):  # unlike Path.is_dir False for names that are too long
        return _folder_reader(path, multi_label).read(path)
    tables, columns = split_spec(spec)
    if columns and os.path.isdir(user_path(tables)):
        return Csv(multi_label).read(user_path(spec))
    named = _NAMED.fullmatch(spec)
    known = named is not None and named["name"] in names
    if is_table_spec(spec):
        return Csv(multi_label).read(Path(spec))
    if os.path.exists(path):
        hint = _OTHER_FILES.get(path.suffix.lower(), "give a folder, a table or a dataset's name")
        raise GtaError(f"{path} is a file; {hint}")
    if columns and not known:
        raise GtaError(f"{tables} is no table (.csv, .tsv, .parquet)", option="columns")
    if named and (known or not _looks_like_path(named["name"])):
        root = user_path(named["root"]) if named["root"] else None
        reader = DATASETS.load(named["name"])()
        return (Csv(multi_label) if isinstance(reader, Csv) else reader).read(root)
    if slash and (off := DATASETS.switched_off(family)):
        raise GtaError(off)
    if _looks_like_path(spec):
        raise GtaError(f"no such file or folder: {spec}")
    try:
        DATASETS.load(spec)  # for its suggestion
    except GtaError as error:
        raise GtaError(f"no folder or file '{spec}'; {error}") from error
    raise AssertionError(spec)  # known names are handled above


def is_table_spec(spec: str) -> bool:
    """Return whether `spec` is tables, by their suffixes, without the name of a reader."""
    from gtacli.registry import DATASETS

    named = _NAMED.fullmatch(spec)
    if os.path.isdir(spec) or (named is not None and named["name"] in DATASETS.names()):
        return False
    return all(is_table(name.strip()) for name in split_spec(spec)[0].split(","))


def is_plain_folder(spec: str) -> bool:
    """Return whether `spec` is a folder without a published layout or tables."""
    path = user_path(spec)
    return os.path.isdir(path) and isinstance(_folder_reader(path), Folder)


def _folder_reader(path: Path, multi_label: bool = False) -> DatasetReader:
    for layout in LAYOUTS:
        if layout.recognizes(path):
            return layout()
    return Csv(multi_label) if multi_label or has_tables(path) else Folder()


def _note_folder(spec: str, path: Path) -> None:
    if os.path.exists(path):
        log.info(
            "using dataset '%s', not the folder of that name (write ./%s for the folder)",
            spec,
            spec,
        )


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "~")) or "/" in text or "\\" in text
