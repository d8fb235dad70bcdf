"""Promises of a dataset reader, checked on a small dataset that its author has."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from gtacli.data.base import NO_CLASS, DatasetFamily, ImageDataset, Record
from gtacli.data.truth import read_mask
from gtacli.errors import GtaError
from gtacli.images.decode import decode, read_upright_size
from gtacli.testing.model import without_network
from gtacli.testing.options import Promises
from gtacli.testing.promises import NotApplicable, clear_error, describe, require
from gtacli.testing.state import unchanged_process

IMAGES = 20
"""Images of a split that are decoded."""


def dataset_promises(part: Any, data: str | None) -> Promises:
    """Return the promises of a reader's class.

    Args:
        data: a small dataset in its layout, as it stands behind `NAME:` (of a family: `NAME/`);
            without one, and without an example of its own, only its errors are checked.
    """

    def on(promise: Callable[[Any, str | None], None]) -> Callable[[], None]:
        return partial(_on_example, promise, part, data)

    return {
        "it describes itself in a line": on(_described),
        "a missing, empty or unnamed folder is an error in words": on(_errors),
        "it returns a dataset whose images can be read": on(_reads),
        "reading it twice gives the same dataset": on(_deterministic),
        "its names do not depend on the place of the folder": on(_movable),
        "its dataset can be sent to another process": on(_pickled),
        "threads may open its images at once": on(_threads),
        "it leaves the state of the process as it is": on(_process_alone),
    }


def _on_example(promise: Callable[[Any, str | None], None], part: Any, data: str | None) -> None:
    """Check a promise on the given data, or else on the example that the reader writes."""
    with tempfile.TemporaryDirectory() as folder:
        promise(part, _example(part, Path(folder)) if data is None else data)


def _example(part: Any, folder: Path) -> str | None:
    place = folder / "example"
    place.mkdir()
    found: str | None = part().write_example(place)
    return found


def read(part: Any, data: str | None) -> ImageDataset:
    """Read a dataset without a network. Raises NotApplicable where there is none to read."""
    if data is None and (part.needs_root or issubclass(part, DatasetFamily)):
        raise NotApplicable(
            "no data: write `write_example`, or give a small dataset to checks(..., data=FOLDER)"
        )
    with without_network():
        try:
            found = _read(part, data)
        except GtaError as error:
            if data is None:
                raise NotApplicable(f"its data are not here: {error}") from error
            raise
    require(isinstance(found, ImageDataset), f"read() returns {type(found).__name__}")
    return found


def _read(part: Any, data: str | None) -> Any:
    if data is None:
        return part().read(None)
    return part().open(data) if issubclass(part, DatasetFamily) else part().read(Path(data))


def _first(dataset: ImageDataset) -> list[Record]:
    return [record for split in dataset.splits for record in dataset[split][:IMAGES]]


def _described(part: Any, data: str | None) -> None:
    require(part.help and "\n" not in part.help, "help is no line for listings")


def _errors(part: Any, data: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder, without_network():
        if part.needs_root or issubclass(part, DatasetFamily):
            with clear_error("without a folder"):
                part().read(None)
        if part.needs_root and not issubclass(part, DatasetFamily):
            with clear_error("for a folder that does not exist", ["no-such-folder"]):
                part().read(Path(folder, "no-such-folder"))
            with clear_error("for an empty folder"):
                part().read(Path(folder))


def _reads(part: Any, data: str | None) -> None:
    dataset = read(part, data)
    require(dataset.name.strip(), "the dataset has no name")
    require(dataset.classes == NO_CLASS or all(dataset.classes), "a class has no name")
    for record in _first(dataset):
        require("\\" not in record.key, f"the key {record.key} has a backslash: use /")
        require(not record.key.startswith("/"), f"the key {record.key} is an absolute path")
        try:
            decode(record.source)
        except Exception as error:
            require(False, f"{record.key} cannot be read: {describe(error)}")
        if record.mask is not None:
            try:
                read_mask(record.mask, read_upright_size(record.source))
            except Exception as error:
                require(False, f"the mask of {record.key} cannot be read: {describe(error)}")
        for x0, y0, x1, y1 in record.boxes or ():
            require(x0 <= x1 and y0 <= y1, f"a box of {record.key} is not (x0, y0, x1, y1)")


def _deterministic(part: Any, data: str | None) -> None:
    first, second = read(part, data), read(part, data)
    require(first.classes == second.classes, "the classes have another order the second time")
    for split in {**first.splits, **second.splits}:
        keys = [[record.key for record in dataset[split]] for dataset in (first, second)]
        require(keys[0] == keys[1], f"the split {split} has another order the second time: sort")


def _movable(part: Any, data: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        if data is not None and Path(data).is_dir():
            places: tuple[str | None, ...] = data, str(Path(folder, Path(data).name))
            shutil.copytree(data, str(places[1]))
        else:
            places = tuple(_example(part, Path(one)) for one in (folder, other))
        if None in places:
            raise NotApplicable("no folder: give a small dataset to checks(..., data=FOLDER)")
        same = len({read(part, place).fingerprint() for place in places}) == 1
    require(same, "a copy of the folder is another dataset: keys must be relative to it")


def _pickled(part: Any, data: str | None) -> None:
    dataset = read(part, data)
    again = pickle.loads(pickle.dumps(dataset))
    require(again.fingerprint() == dataset.fingerprint(), "a pickled dataset differs")
    for record in _first(again)[:1]:
        with record.open() as file:
            require(file.read(1), f"{record.key} is empty after pickling")


def _threads(part: Any, data: str | None) -> None:
    def content(record: Record) -> bytes:
        with record.open() as file:
            return file.read()

    records = _first(read(part, data)) * 2
    with ThreadPoolExecutor(4) as pool:
        require(
            [*pool.map(content, records)] == [content(record) for record in records],
            "threads that open images at once get other images",
        )


def _process_alone(part: Any, data: str | None) -> None:
    read(part, data)
    with unchanged_process("reading"), without_network():
        _read(part, data)
