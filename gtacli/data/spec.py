"""`--data`: from what the user wrote to a data set.

A folder (recognised by what lies in it), a .csv, a name of the registry `gta.datasets`, or
`NAME:ROOT`. A name whose reader needs no root (`demo`) wins over a folder of the same name in the
working directory; `./demo` means the folder.
"""

import logging
import re
from pathlib import Path

from gtacli.data.base import DatasetReader, ImageDataset
from gtacli.data.cub import CUB, is_cub
from gtacli.data.folder import Folder
from gtacli.data.table import Csv
from gtacli.errors import GtaError

log = logging.getLogger(__name__)
# Two letters at least, so that a Windows drive (`C:\birds`) is a path.
_NAMED = re.compile(r"(?P<name>[\w/.-]*[\w.-]{2}):(?P<root>.*)", re.DOTALL)


def load_dataset(spec: str) -> ImageDataset:
    """Read the data set that `spec` names; GtaError with one line where it cannot."""
    # Late: the registry checks what it loads against this package's DatasetReader.
    from gtacli.registry import DATASETS

    if not spec.strip():
        raise GtaError("the data spec is empty: give a folder, a .csv or a data set's name")
    path = Path(spec).expanduser()
    names = DATASETS.names()
    if spec in names:
        reader: DatasetReader = DATASETS.load(spec)()
        if not (reader.needs_root and path.exists()):
            if path.exists():
                log.info("data set '%s', not the folder of that name (write ./%s)", spec, spec)
            return reader.read(None)
    if path.is_dir():
        return (CUB() if is_cub(path) else Folder()).read(path)
    if path.suffix.lower() == ".csv":
        return Csv().read(path)
    if path.exists():
        raise GtaError(f"{path} is a file; data is a folder, a .csv or a data set's name")
    named = _NAMED.fullmatch(spec)
    if named and (named["name"] in names or not _looks_like_path(named["name"])):
        root = Path(named["root"]).expanduser() if named["root"] else None
        return DATASETS.load(named["name"])().read(root)
    if _looks_like_path(spec):
        raise GtaError(f"no such file or folder: {spec}")
    try:
        DATASETS.load(spec)  # for its "did you mean"
    except GtaError as error:
        raise GtaError(f"no folder or file '{spec}'; {error}") from error
    raise AssertionError(spec)  # a known name was taken above


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "~")) or "/" in text or "\\" in text
