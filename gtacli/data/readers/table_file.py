"""Files of tables as rows of cells: text in any usual encoding and separator, or Parquet.

Text is UTF-8, or UTF-16 and UTF-32 with a byte order mark. Other text is guessed by how its other
bytes follow each other, and the log says as what it is read: pairs are Chinese (GB 18030), Korean
(Windows-949) or Japanese (Shift JIS), long runs Cyrillic (Windows-1251), single ones Western
(Windows-1252).
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gtacli.errors import GtaError, reason_of_library
from gtacli.runtime.regular import open_regular, read_regular
from gtacli.runtime.strict_json import parse_json

log = logging.getLogger(__name__)
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
SAMPLE = 1 << 16
"""Characters from which the separator is chosen."""
_ROWS = 200  # of them
_ROWS_A_BYTE = 4  # at most in Parquet; 1,000,000 numbered names and labels take 0.5 bytes
_LIST_TEXT = 1 << 28  # characters of all different lists of a part of Parquet
_MOST_CELLS = 100_000  # in a row; ImageNet-21k has 21,841 classes
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GUESSED = {
    "cp1252": "Windows-1252",
    "gb18030": "GB 18030",
    "cp932": "Shift JIS",
    "cp949": "Korean (Windows-949)",
    "cp1251": "Windows-1251",
}
"""Names of guessed encodings."""
_PAIRS = 8  # different ones, of which one Chinese text in fifty has none elsewhere
_HIGH = re.compile(rb"[\x80-\xff]+")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")


class Row(NamedTuple):
    """A row of a table: the number of its line, from 1, and its cells without outer spaces."""

    line: int
    cells: list[str]


def is_table(name: str) -> bool:
    """Return whether a file's name has the suffix of a table."""
    return name.lower().endswith(SUFFIXES)


def is_text(path: Path) -> bool:
    """Return whether a table's beginning can be read by itself."""
    return path.suffix.lower() not in (".parquet", ".jsonl")


def read_rows(path: Path) -> list[Row]:
    """Read all rows that are not empty, the header too. Raises GtaError."""
    if path.suffix.lower() == ".parquet":
        return list(_read_parquet(path))
    try:
        text = decode_text(read_regular(path), path)
    except OSError as error:
        raise GtaError(f"cannot read {path}: {error.strerror}") from error
    if path.suffix.lower() == ".jsonl":
        return list(_parse_json(text, path))
    return parse_rows(text, path)


def read_head(path: Path) -> list[Row]:
    """Read some of the first rows of a text; none if it is no table."""
    if not is_text(path):
        return []
    try:
        with open_regular(path) as file:
            data = file.read(SAMPLE)
            whole = len(data) < SAMPLE
        return parse_rows(decode_text(data if whole else data[: data.rfind(b"\n") + 1], path), path)
    except (OSError, GtaError):
        return []


def decode_text(data: bytes, path: Path) -> str:
    """Return the text of a table's bytes. Raises GtaError if they are no text."""
    encoding = guess_encoding(data)
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise GtaError(f"{path} is not a readable table: {error}") from error
    if _CONTROL.search(text[:SAMPLE]):
        hint = "; save it as CSV" if data.startswith((b"PK", b"\xd0\xcf")) else ""
        raise GtaError(f"{path} is not a readable table: it is not text{hint}")
    if encoding in _GUESSED:
        log.info("%s is not UTF-8, it is read as %s", path, _GUESSED[encoding])
    return text


def guess_encoding(data: bytes) -> str | None:
    """Return the name of a text's encoding; None if it is in none of those that are known."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    zeros = data[:SAMPLE].count(0)
    if zeros > len(data[:SAMPLE]) // 4:  # ASCII characters of two bytes, without a mark
        return "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    for encoding in ("utf-8", *_by_runs(_HIGH.findall(data)), *_GUESSED):
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return None


def _by_runs(runs: list[bytes]) -> Iterator[str]:
    """Yield the likely encodings of a text by its runs of bytes above ASCII."""
    firsts = [byte for run in runs for byte in run[::2]]
    # Shift JIS begins hiragana and katakana with 0x82 and 0x83, quotation marks and f elsewhere.
    if sum(byte in (0x82, 0x83) for byte in firsts) * 4 > len(firsts):
        yield "cp932"
    # GB 2312 begins characters with 0xB0 and above.
    paired = all(len(run) % 2 == 0 for run in runs)
    if paired and sum(byte >= 0xB0 for byte in firsts) * 2 > len(firsts):
        # All Korean syllables lie where three fifths of the Chinese characters do.
        pairs = {run[i : i + 2] for run in runs for i in range(0, len(run), 2)}
        if len(pairs) >= _PAIRS and all(0xB0 <= byte <= 0xC8 for byte in firsts):
            yield "cp949"
        yield "gb18030"
    yield "cp1251" if max(map(len, runs), default=0) > 3 else "cp1252"


def parse_rows(text: str, path: Path) -> list[Row]:
    """Split a text into rows and cells. Raises GtaError."""
    declared = re.match(r"\s*sep=(.)\r?\n", text)  # a line of Excel
    if declared:
        text = text[declared.end() :]
    separator = declared[1] if declared else _find_separator(text[:SAMPLE], path)
    try:
        return list(_split(text, separator, above=1 if declared else 0))
    except csv.Error as error:
        raise GtaError(f"{path} is not a readable table: {error}") from error


def _split(text: str, separator: str, above: int = 0) -> Iterator[Row]:
    """Yield the rows of a text that has so many lines above it."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t"
    )
    for cells in reader:
        if len(cells) > _MOST_CELLS:
            raise csv.Error(f"line {reader.line_num} has more than {_MOST_CELLS:,} cells")
        stripped = [*map(str.strip, cells)]
        if any(stripped):
            yield Row(reader.line_num + above, stripped)


def _find_separator(sample: str, path: Path) -> str:
    """Return the character that splits the first lines into equally many cells, at least two."""
    candidates = ["\t", ",", ";", "|"] if path.suffix.lower() == ".tsv" else [",", "\t", ";", "|"]
    if path.suffix.lower() == ".txt":
        candidates.append(" ")
    whole = sample if len(sample) < SAMPLE else sample[: sample.rfind("\n") + 1]
    best, most = candidates[0], (0.0, 0)
    for separator in candidates:
        try:
            widths = [len(row.cells) for row in islice(_split(whole, separator), _ROWS)]
        except csv.Error:
            continue
        if not widths or widths[0] < 2:
            continue
        equal = sum(width == widths[0] for width in widths) / len(widths)
        if (equal, widths[0]) > most:
            best, most = separator, (equal, widths[0])
    return best


def _parse_json(text: str, path: Path) -> Iterator[Row]:
    """Yield the names that all objects have together, then the values of each object."""
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise GtaError(f"{path}, line {number}: {error}") from error
        if not isinstance(found, dict):
            raise GtaError(f"{path}, line {number}: not an object")
        objects.append((number, found))
    names = list(dict.fromkeys(name for _, found in objects for name in found))
    yield Row(1, names)
    for number, found in objects:
        cells = [found.get(name) for name in names]
        yield Row(number, list(map(_json_text, cells)))


def _json_text(cell: Any) -> str:
    """Return a cell as text; a list as JSON."""
    if isinstance(cell, list):
        return json.dumps(cell, ensure_ascii=False)
    return "" if cell is None else str(cell).strip()


def _read_parquet(path: Path) -> Iterator[Row]:
    """Yield the names, then the rows; of nested columns, such as images, only that they are."""
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise GtaError(f"{path}: to read Parquet, pip install 'gtacli[parquet]'") from error
    try:
        with open_regular(path) as file:
            names, columns = _parquet_columns(file)
    except (OSError, ArrowException, ValueError, OverflowError) as error:
        reason = reason_of_library(error)
        raise GtaError(f"{path} is not a readable Parquet file: {reason}") from error
    yield Row(1, names)
    for number, cells in enumerate(zip(*columns, strict=True), start=2):
        yield Row(number, list(cells))


def _parquet_columns(file: BinaryIO) -> tuple[list[str], list[list[str]]]:
    """Return the names and the cells of all columns.

    A few bytes can stand for many rows, or for one long text in all of them: rows are counted
    before they are read, and texts stay in their dictionary.
    """
    from pyarrow import parquet, types

    schema: Any = parquet.read_schema(file)
    lists = [one for one in schema if types.is_list(one.type) and _is_plain(one.type.value_type)]
    flat = [
        *(one for one in schema if not types.is_nested(one.type) and "binary" not in str(one.type)),
        *lists,
    ]
    texts = [one.name for one in flat if "string" in str(one.type)]
    file.seek(0)
    paths = [
        column.path
        for column in parquet.ParquetFile(file).schema
        if column.path.split(".")[0] in texts
    ]
    file.seek(0)
    table: Any = parquet.ParquetFile(file, read_dictionary=paths)
    rows, size = table.metadata.num_rows, os.fstat(file.fileno()).st_size
    if rows > _ROWS_A_BYTE * size:
        raise ValueError(f"it describes {rows:,} rows in {size:,} bytes")
    for one in lists:
        if (values := _count_values(table.metadata, one.name)) > _ROWS_A_BYTE * size:
            raise ValueError(f"it describes {values:,} labels in {size:,} bytes")
    read: Any = table.read(columns=[one.name for one in flat])
    cells = {
        name: [cell for chunk in column.chunks for cell in _cells(chunk)]
        for name, column in zip(read.column_names, read.columns, strict=True)
    }
    return list(schema.names), [cells.get(name, ["(embedded)"] * rows) for name in schema.names]


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind))


def _count_values(metadata: Any, name: str) -> int:
    """Return the number of values in the lists of a column."""
    return sum(
        part.num_values
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for part in map(group.column, range(group.num_columns))
        if part.path_in_schema.split(".")[0] == name
    )


def _cells(chunk: Any) -> Iterator[str]:
    """Yield the values of a part of a column as texts; equal ones are one in memory."""
    if hasattr(chunk, "flatten") and hasattr(chunk, "offsets"):
        yield from _list_cells(chunk)
        return
    if not hasattr(chunk, "dictionary"):
        yield from map(_text, chunk.to_pylist())
        return
    texts = [_text(value) for value in chunk.dictionary.to_pylist()]
    if any(len(text) > csv.field_size_limit() for text in texts):
        raise ValueError(f"a cell has more than {csv.field_size_limit():,} characters")
    yield from ("" if index is None else texts[index] for index in chunk.indices.to_pylist())


def _list_cells(chunk: Any) -> Iterator[str]:
    """Yield the lists of a part of a column as JSON; equal ones are one in memory."""
    values, offsets = [*_cells(chunk.values)], chunk.offsets.to_pylist()
    known: dict[tuple[str, ...], str] = {}
    total = 0
    for begin, end, valid in zip(offsets, offsets[1:], chunk.is_valid().to_pylist(), strict=False):
        labels = tuple(values[begin:end]) if valid else ()
        if labels not in known:
            if sum(map(len, labels)) > csv.field_size_limit():
                raise ValueError(f"a cell has more than {csv.field_size_limit():,} characters")
            known[labels] = json.dumps(labels, ensure_ascii=False)
            total += len(known[labels])
            if total > _LIST_TEXT:
                raise ValueError(f"its lists have more than {_LIST_TEXT:,} characters")
        yield known[labels]


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
