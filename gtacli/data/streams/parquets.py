"""Images of a Parquet file, row group by row group, a few rows in memory at a time.

The layout is that of Hugging Face: a column `image` of {bytes, path}, or a column of bytes, and
perhaps a column of labels, whose names are in the file's own metadata. Only these columns are read.
A few bytes can stand for very many: numbers of rows and sizes of groups are bounded by those of the
file before anything is unpacked.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from gtacli.data.streams.samples import LARGEST, ShardError, Unreadable
from gtacli.data.streams.tars import PackedMember
from gtacli.errors import GtaError, reason_of_library
from gtacli.runtime.strict_json import parse_json

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")
LABELS = ("label", "labels", "fine_label", "cls", "class")
"""Names of columns, the first of which counts where several are of the type."""
ROWS = 8
"""Rows that are unpacked at a time."""
_ROWS_A_BYTE = 4
_MOST_UNPACKED = 1 << 32
"""Bytes of the images of a row group, as its file says."""


class RangeSource(Protocol):
    """The bytes of a shard, at any place."""

    @property
    def size(self) -> int:
        """Number of all bytes."""
        ...

    def read_range(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on; fewer only at the end."""
        ...


class _Columns(NamedTuple):
    """The columns of a file: `image`, whether it is {bytes, path}, `label`, names of classes."""

    image: str
    nested: bool
    label: str | None
    classes: Sequence[str]


def require_pyarrow(spec: str) -> None:
    """Raise GtaError without the package that reads Parquet."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        text = f"{spec}: to read Parquet, pip install 'gtacli[parquet]'"
        raise GtaError(text) from error


def read_parquet(
    source: RangeSource, labels: bool, start: int = 0
) -> Iterator[PackedMember | Unreadable]:
    """Yield the images of a Parquet file, named by their rows: "row 0".

    Args:
        labels: whether labels are read.
        start: the first row.

    A row without bytes is `Unreadable`. Raises ShardError where the file is damaged, or is none.
    """
    from pyarrow import ArrowException, parquet

    try:
        file: Any = parquet.ParquetFile(io.BufferedReader(_Seekable(source), 1 << 16))
        columns = _find_columns(file.schema_arrow)
        rows = file.metadata.num_rows
        if rows > _ROWS_A_BYTE * source.size:
            raise ShardError(f"it describes {rows:,} rows in {source.size:,} bytes")
        names = [f"{columns.image}.bytes" if columns.nested else columns.image]
        names += [columns.label] if labels and columns.label is not None else []
        row = 0
        for group in range(file.num_row_groups):
            if row + (count := file.metadata.row_group(group).num_rows) <= start:
                row += count
                continue
            _check_group(file.metadata.row_group(group), columns.image, source.size)
            batches = file.iter_batches(ROWS, [group], names, use_threads=False)
            for batch in batches:
                yield from _images(batch, columns, row, max(0, start - row))
                row += batch.num_rows
    except (ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise ShardError(f"it is no readable Parquet file: {reason_of_library(error)}") from error


def _find_columns(schema: Any) -> _Columns:
    """Choose the columns of images and labels. Raises ShardError if it is unclear."""
    from pyarrow import types

    nested = [one.name for one in schema if types.is_struct(one.type) and _has_bytes(one.type)]
    plain = [one.name for one in schema if _is_bytes(one.type)]
    for found, is_nested in ((nested, True), (plain, False)):
        named = [name for name in IMAGES if name in found]
        if named or len(found) == 1:
            label = next((name for name in LABELS if name in schema.names), None)
            if label is not None and not _is_label(schema.field(label).type):
                label = None
            return _Columns((named or found)[0], is_nested, label, _class_names(schema, label))
    listed = ", ".join(schema.names[:20])
    raise ShardError(f"it is unclear which column has the images; it has {listed}")


def _has_bytes(kind: Any) -> bool:
    place = kind.get_field_index("bytes")
    return place >= 0 and _is_bytes(kind.field(place).type)


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_label(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))


def _class_names(schema: Any, label: str | None) -> Sequence[str]:
    """Return the names of the classes in the metadata of Hugging Face; none without them."""
    try:
        info = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = info["info"]["features"][label]["names"]
        return [str(name) for name in names]
    except (ValueError, KeyError, TypeError):
        return ()


def _check_group(group: Any, image: str, size: int) -> None:
    """Raise ShardError for a row group that would unpack to more than a machine holds."""
    for place in range(group.num_columns):
        column = group.column(place)
        if not f"{column.path_in_schema}.".startswith(f"{image}."):
            continue
        if column.total_compressed_size > size:
            raise ShardError("a row group in it is larger than the file")
        if column.total_uncompressed_size > _MOST_UNPACKED:
            text = f"a row group in it has {column.total_uncompressed_size:,} bytes"
            raise ShardError(f"{text}; at most {_MOST_UNPACKED:,} are read")


def _images(
    batch: Any, columns: _Columns, first: int, skipped: int
) -> Iterator[PackedMember | Unreadable]:
    """Yield the images of rows, whose first one has the number `first`, without some of them."""
    images, labels = batch.column(0), batch.column(1) if batch.num_columns > 1 else None
    if columns.nested:
        images = images.flatten()[0]  # null where the row is
    for place in range(skipped, batch.num_rows):
        name = f"row {first + place}"
        value = images[place]
        if not value.is_valid:
            yield Unreadable(name, "it has no bytes: files beside a shard are not read")
            continue
        buffer = value.as_buffer()
        if buffer.size > LARGEST:
            yield Unreadable(name, f"it has {buffer.size:,} bytes; at most {LARGEST:,} are read")
            continue
        label = None if labels is None else labels[place].as_py()
        text = _label(label, columns.classes)
        yield PackedMember(name, buffer.to_pybytes(), text, first + place)


def _label(value: object, classes: Sequence[str]) -> str:
    if value is None or value == -1:
        return ""
    if isinstance(value, int) and 0 <= value < len(classes):
        return classes[value]
    return str(value)


class _Seekable(io.RawIOBase):
    """A source as a file for pyarrow, which reads its end first."""

    def __init__(self, source: RangeSource) -> None:
        self._source, self._place = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._source.size}[whence]
        self._place = max(0, start + place)
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._source.read_range(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
