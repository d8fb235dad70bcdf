"""Reader `csv`: a table `path,label[,split][,mask]`, paths relative to the table's folder."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from gtacli.data.base import SPLIT_NAMES, DatasetReader, ImageDataset, Record
from gtacli.errors import GtaError


class Csv(DatasetReader):
    help = "a .csv of path,label[,split][,mask]; without a split column everything is training"

    def read(self, root: Path | None) -> ImageDataset:
        if root is None:
            raise GtaError("data set 'csv' needs a file: write csv:FILE.csv")
        if not root.is_file():
            raise GtaError(f"no such file: {root}")
        try:
            with root.open(encoding="utf-8-sig", newline="") as file:
                rows = list(_rows(root, file))
        except OSError as error:
            raise GtaError(f"cannot read {root}: {error.strerror}") from error
        except (csv.Error, UnicodeDecodeError) as error:
            raise GtaError(f"{root} is not a readable csv file: {error}") from error
        if not rows:
            raise GtaError(f"{root} has no row below its header")

        classes = _sorted_labels({row["label"] for _, row in rows})
        labels = {name: label for label, name in enumerate(classes)}
        splits: dict[str, list[Record]] = {}
        for line, row in rows:
            record = _record(root, line, row, labels)
            splits.setdefault(_split(root, line, row), []).append(record)
        parts = {split: tuple(records) for split, records in splits.items()}
        return ImageDataset(root.stem, classes, parts)


def _rows(source: Path, file: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) with names of columns and values stripped."""
    reader = csv.DictReader(file)
    header = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    for column in ("path", "label"):
        if column not in header:
            got = ", ".join(header) or "an empty file"
            raise GtaError(f"{source}: no column '{column}' in its header (found {got})")
    reader.fieldnames = header
    for row in reader:
        clean = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        for column in ("path", "label"):
            if not clean[column]:
                raise GtaError(f"{source}, line {reader.line_num}: no {column}")
        yield reader.line_num, clean


def _record(source: Path, line: int, row: dict[str, str], labels: dict[str, int]) -> Record:
    path = source.parent / row["path"]
    if not path.is_file():
        raise GtaError(f"{source}, line {line}: no such image: {path}")
    mask = source.parent / row["mask"] if row.get("mask") else None
    if mask is not None and not mask.is_file():
        raise GtaError(f"{source}, line {line}: no such mask: {mask}")
    return Record(Path(row["path"]).as_posix(), labels[row["label"]], path, mask)


def _split(source: Path, line: int, row: dict[str, str]) -> str:
    given = row.get("split")
    if given is None:
        return "train"
    if given.lower() not in SPLIT_NAMES:
        raise GtaError(f"{source}, line {line}: split must be train, val or test, got '{given}'")
    return SPLIT_NAMES[given.lower()]


def _sorted_labels(names: set[str]) -> tuple[str, ...]:
    """By value where every label is a whole number (2 before 10), by name otherwise."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
