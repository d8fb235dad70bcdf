"""The column of a table that has the splits of its rows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gtacli.data.base import SPLIT_NAMES, split_in_name
from gtacli.data.readers.column_names import FLAGS, NAMES, YES_NO
from gtacli.data.readers.table_file import Row
from gtacli.errors import GtaError

log = logging.getLogger(__name__)


def find_split(
    source: Path, names: Sequence[str], rows: Sequence[Row], given: int | None
) -> tuple[int | None, dict[str, str]]:
    """Return the column of splits and the split of each of its values in lower case.

    A column of another name than `split` counts only if all its values are splits.
    """
    for name, (yes, no) in FLAGS.items():
        if given is None and name in names:
            column = names.index(name)
            values = values_of(rows, column)
            if values.keys() <= YES_NO.keys():
                return column, {value: yes if YES_NO[value] else no for value in values}
    known = [given] if given is not None else [names.index(n) for n in NAMES["split"] if n in names]
    for column in known:
        values = values_of(rows, column)
        splits = _read_splits(source, values)
        if splits.keys() >= values.keys() or column == given or names[column] == "split":
            return column, splits
    return None, {}


def values_of(rows: Sequence[Row], column: int) -> Counter[str]:
    """Count the values of a column, in lower case; a cell that is missing is empty."""
    return Counter(row.cells[column].lower() if column < len(row.cells) else "" for row in rows)


def _read_splits(source: Path, values: Counter[str]) -> dict[str, str]:
    numbers = {value.removesuffix(".0"): value for value in values}
    if numbers.keys() <= {"0", "1", "2"} and "0" in numbers:
        if "2" in numbers:
            order = ("train", "val", "test")  # as in CelebA and WILDS
        else:
            order = ("train", "test", "test")
            if values[numbers["0"]] < values[numbers.get("1", "1")]:
                raise GtaError(
                    f"{source}: most rows have split 1, so that it is unclear whether 0 or 1 is "
                    "train; write train and test"
                )
        said = ", ".join(f"{number} is {order[int(number)]}" for number in sorted(numbers))
        log.info("%s: in its column of splits %s", source, said)
        return {value: order[int(number)] for number, value in numbers.items()}
    splits = {value: SPLIT_NAMES.get(value) or split_in_name(value) for value in values}
    return {value: split for value, split in splits.items() if split is not None}
