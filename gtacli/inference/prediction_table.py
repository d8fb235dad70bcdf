"""Tables of predictions: CSV or Parquet with one row per image."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from gtacli.inference.stream import Failure
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.escapes import as_utf8, plain_cell

if TYPE_CHECKING:
    from gtacli.inference.results import Prediction

Row: TypeAlias = list[str | float | bool | None]
_ROWS = 1024
"""Rows of Parquet that are written at a time."""


class TableShape(NamedTuple):
    """The columns of a table.

    Attributes:
        classes: number of the most probable classes in a row.
        unsure: whether there is a column for it.
        separator: between the labels of an image, "" for a JSON list; None: it has one class.
        known: names of columns, after the image's, of what is known of it beside its prediction.
    """

    classes: int
    unsure: bool = False
    separator: str | None = None
    known: tuple[str, ...] = ()


def label_separator(names: Iterable[str]) -> str:
    """Return a character that no class's name contains, as tables of labels are read; else ""."""
    used = set().union(*map(set, names))
    return next((mark for mark in "|;," if mark not in used), "")


def join_labels(labels: Sequence[str], shape: TableShape) -> str:
    """Return the cell of an image's labels."""
    if shape.separator:
        return shape.separator.join(labels)
    return json.dumps(labels, ensure_ascii=False)


class PredictionTable(ABC):
    """A table of predictions.

    The columns are image, class, probability, class2, probability2, ...; with `unsure` a last one
    says which predictions are not sure; with `labels` a second one has all labels of an image. The
    row of an image that cannot be read is empty but for its name.
    """

    def __init__(self, shape: TableShape) -> None:
        self._shape = shape
        numbers = ["", *map(str, range(2, shape.classes + 1))]
        pairs = [f"{key}{n}" for n in numbers for key in ("class", "probability")]
        labels = [] if shape.separator is None else ["labels"]
        unsure = ["unsure"] if shape.unsure else []
        self.columns = ["image", *shape.known, *labels, *pairs, *unsure]

    def add(self, result: Prediction | Failure, known: Sequence[str] = ()) -> None:
        """Write the row of an image; `known` has the cells of the columns of that name."""
        if isinstance(result, Failure):
            self._row([result.image, *[None] * (len(self.columns) - 1)])
            return
        row: Row = [result["image"], *known]
        if self._shape.separator is not None:
            row.append(join_labels([one["class"] for one in result["labels"]], self._shape))
        for one in result["top"]:
            row += [one["class"], one["probability"]]
        self._row([*row, result.get("unsure", False)] if self._shape.unsure else row)

    @abstractmethod
    def _row(self, row: Row) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Write what is left; a table of no image at all has its columns."""


class CsvTable(PredictionTable):
    """Lines of CSV, with a header.

    Control characters are escaped, so that every row is one line. A cell that a spreadsheet would
    take for a formula begins with an apostrophe.
    """

    def __init__(self, write: Callable[[str], object], shape: TableShape) -> None:
        """Begin a table; `write` is called with each line, without its end."""
        super().__init__(shape)
        self._write = write
        self._begun = False

    def _row(self, row: Row) -> None:
        self.finish()
        self._line(map(_cell, row))

    def finish(self) -> None:
        if not self._begun:
            self._begun = True
            self._line(iter(self.columns))

    def _line(self, cells: Iterator[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(map(plain_cell, cells))
        self._write(line.getvalue())


class ParquetTable(PredictionTable):
    """A Parquet file with text, double and bool columns; null where CSV has an empty cell."""

    def __init__(self, path: Path, shape: TableShape) -> None:
        super().__init__(shape)
        import pyarrow
        from pyarrow import parquet

        kinds = {"probability": pyarrow.float64(), "unsure": pyarrow.bool_()}
        fields = [(c, kinds.get(c.rstrip("0123456789"), pyarrow.string())) for c in self.columns]
        self._arrow: Any = pyarrow
        self._schema = pyarrow.schema(fields)
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._rows: list[Row] = []

    def _row(self, row: Row) -> None:
        self._rows.append([as_utf8(cell) if isinstance(cell, str) else cell for cell in row])
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = [*zip(*self._rows, strict=True)] or [()] * len(self.columns)
        arrays = [
            self._arrow.array(column, kind.type)
            for column, kind in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.table(arrays, schema=self._schema))
        self._rows = []

    def finish(self) -> None:
        self._flush()

    def close(self) -> None:
        """Close the file, complete or not."""
        self._writer.close()


@contextmanager
def csv_file(path: Path, shape: TableShape) -> Iterator[PredictionTable]:
    """Open a file of CSV, which is complete afterwards."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        table = CsvTable(lambda line: file.write(line + "\n"), shape)
        yield table
        table.finish()


@contextmanager
def parquet_file(path: Path, shape: TableShape) -> Iterator[PredictionTable]:
    """Open a Parquet file, which is complete afterwards."""
    table = ParquetTable(path, shape)
    try:
        yield table
        table.finish()
    finally:
        table.close()


TABLES = {"csv": csv_file, "parquet": parquet_file}
"""How a table's file is opened, by option and suffix."""


def write_tables(
    places: Mapping[str, Path],
    shape: TableShape,
    fill: Callable[[list[PredictionTable]], int],
) -> int:
    """Let `fill` add rows to tables in files, which appear when all is complete.

    Args:
        places: files by option.
        shape: of the tables.

    Returns what `fill` returns. Raises RunError about the option of a file that cannot be written.
    """
    if not places:
        return fill([])
    option, *others = places
    returned = []

    def write(draft: Path) -> None:
        with TABLES[option](draft, shape) as table:
            rest = {key: places[key] for key in others}
            returned.append(write_tables(rest, shape, lambda more: fill([table, *more])))

    write_atomic(places[option], write, option=option)
    return returned[0]


def _cell(value: str | float | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value or ""
