"""`--data`: from what the user wrote to a data set.

A folder (recognised by what lies in it), a .csv or several joined by commas, a name of the
registry `gta.datasets`, `NAME:ROOT`, or `FAMILY/REST` of a family (`torch/pets:ROOT`). A family's
name, and one whose reader needs no root (`demo`), wins over a folder of the same name in the
working directory; `./demo` means the folder.
"""

import logging
import re
from pathlib import Path

from gtacli.data.base import DatasetFamily, DatasetReader, ImageDataset
from gtacli.data.readers.aircraft import Aircraft
from gtacli.data.readers.cars import Cars
from gtacli.data.readers.cub import CUB
from gtacli.data.readers.dogs import Dogs
from gtacli.data.readers.folder import Folder
from gtacli.data.readers.pets import Pets
from gtacli.data.readers.published import require_images
from gtacli.data.readers.table import Csv, has_tables
from gtacli.errors import GtaError

log = logging.getLogger(__name__)
LAYOUTS = (CUB, Dogs, Cars, Aircraft, Pets)
"""Recognised in a plain folder: their lists' names are their own."""
# Two letters at least, so that a Windows drive (`C:\birds`) is a path.
_NAMED = re.compile(r"(?P<name>[\w/.-]*[\w.-]{2}):(?P<root>.*)", re.DOTALL)


def load_dataset(spec: str) -> ImageDataset:
    """Read the data set that `spec` names; GtaError with one line where it cannot, or where a
    photograph of a published set is missing."""
    dataset = read_dataset(spec)
    require_images(dataset)
    return dataset


def read_dataset(spec: str) -> ImageDataset:
    """The same, without asking whether a published set's photographs are there."""
    # Late: the registry checks what it loads against this package's DatasetReader.
    from gtacli.registry import DATASETS

    if not spec.strip():
        raise GtaError("the data spec is empty: give a folder, a .csv or a data set's name")
    path = Path(spec).expanduser()
    names = DATASETS.names()
    if spec in names:
        reader: DatasetReader = DATASETS.load(spec)()
        if not (reader.needs_root and path.exists()):
            _note_folder(spec, path)
            return reader.read(None)
    family, slash, rest = spec.partition("/")
    if slash and family in names:
        reader = DATASETS.load(family)()
        if isinstance(reader, DatasetFamily):
            _note_folder(spec, path)
            return reader.open(rest)
    if path.is_dir():
        return _folder_reader(path).read(path)
    named = _NAMED.fullmatch(spec)
    known = named is not None and named["name"] in names
    if not known and all(name.strip().lower().endswith(".csv") for name in spec.split(",")):
        return Csv().read(Path(spec))
    if path.exists():
        raise GtaError(f"{path} is a file; data is a folder, a .csv or a data set's name")
    if named and (known or not _looks_like_path(named["name"])):
        root = Path(named["root"]).expanduser() if named["root"] else None
        return DATASETS.load(named["name"])().read(root)
    if _looks_like_path(spec):
        raise GtaError(f"no such file or folder: {spec}")
    try:
        DATASETS.load(spec)  # for its "did you mean"
    except GtaError as error:
        raise GtaError(f"no folder or file '{spec}'; {error}") from error
    raise AssertionError(spec)  # a known name was taken above


def is_plain_folder(spec: str) -> bool:
    """Whether it is a folder with no layout but that of its folders."""
    path = Path(spec).expanduser()
    return path.is_dir() and isinstance(_folder_reader(path), Folder)


def _folder_reader(path: Path) -> DatasetReader:
    for layout in LAYOUTS:
        if layout.recognizes(path):
            return layout()
    return Csv() if has_tables(path) else Folder()


def _note_folder(spec: str, path: Path) -> None:
    if path.exists():
        log.info("data set '%s', not the folder of that name (write ./%s)", spec, spec)


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "~")) or "/" in text or "\\" in text
