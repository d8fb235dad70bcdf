"""Files of embeddings, written image by image in constant memory.

    def fill(file: EmbeddingFile) -> int:
        file.add(image)
        return 0

    write_embeddings(Path("e.parquet"), "parquet", fill)

parquet     id, path, label, split, embedding: fixed-size list of float32
csv         id, path, label, split, then a column a number: e0, e1, ...
npz         embeddings (N, C) float32; paths, labels, splits (N,) text
safetensors embeddings (N, C) float32; paths, labels, splits: UTF-8 bytes, one line each

A file appears when it is complete. Formats whose header needs the number of images collect the
numbers in a nameless file beside it.
"""

from __future__ import annotations

import csv
import json
import struct
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from gtacli.errors import GtaError
from gtacli.inference.embeddings import EmbeddedImage
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.escapes import as_utf8, plain_cell

_ROWS = 1024
"""Rows that are written at a time."""
_TEXTS = ("paths", "labels", "splits")


class EmbeddingFile(ABC):
    """A file of embeddings that is being written.

    Attributes:
        count: images so far.
        width: numbers of an embedding; 0 before the first one.
    """

    def __init__(self) -> None:
        self.count = self.width = 0

    def add(self, image: EmbeddedImage) -> None:
        """Add an image."""
        self.width = len(image.values)
        self._add(image)
        self.count += 1

    @abstractmethod
    def _add(self, image: EmbeddedImage) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Write what is left."""


def write_embeddings(path: Path, kind: str, fill: Callable[[EmbeddingFile], int]) -> int:
    """Let `fill` add images to a file, which appears when it is complete; return what it returns.

    Raises GtaError without the package that writes the format, RunError if the file cannot be
    written.
    """
    returned = []

    def write(draft: Path) -> None:
        with _KINDS[kind](draft) as file:
            returned.append(fill(file))
            file.finish()

    write_atomic(path, write)
    return returned[0]


class _Csv(EmbeddingFile):
    def __init__(self, file: IO[str]) -> None:
        super().__init__()
        self._file = csv.writer(file, lineterminator="\n")

    def _head(self) -> None:
        names = (f"e{i}" for i in range(self.width))
        self._file.writerow(["id", "path", "label", "split", *names])

    def _add(self, image: EmbeddedImage) -> None:
        if not self.count:
            self._head()
        numbers = (f"{value:.9g}" for value in image.values.tolist())  # exact for float32
        texts = map(plain_cell, _texts_of(image))
        self._file.writerow([self.count, *texts, *numbers])

    def finish(self) -> None:
        if not self.count:
            self._head()


class _Parquet(EmbeddingFile):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            text = "`format=parquet` needs pyarrow: pip install 'gtacli[parquet]'"
            raise GtaError(text) from None
        self._arrow: Any = pyarrow
        self._file = file
        self._writer: Any = None
        self._rows: list[EmbeddedImage] = []

    def _add(self, image: EmbeddedImage) -> None:
        self._rows.append(image)
        if len(self._rows) == _ROWS:
            self._flush(self.count + 1)

    def _flush(self, end: int) -> None:
        """Write the rows that wait, of which the last one is number `end` - 1."""
        pa, rows = self._arrow, self._rows
        kind = pa.list_(pa.float32(), max(1, self.width))  # lists of 0 crash Arrow
        names = {"id": pa.int64(), "path": pa.string(), "label": pa.string(), "split": pa.string()}
        schema = pa.schema([*names.items(), ("embedding", kind)])
        if self._writer is None:
            self._writer = pa.parquet.ParquetWriter(self._file, schema)
        numbers = np.concatenate([row.values for row in rows]) if rows else np.zeros(0, np.float32)
        texts = zip(*(_texts_of(row) for row in rows), strict=True) if rows else [[], [], []]
        columns = [
            pa.array(range(end - len(rows), end), pa.int64()),
            *(pa.array(column, pa.string()) for column in texts),
            pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=kind),
        ]
        self._writer.write_table(pa.table(columns, schema=schema))
        self._rows = []

    def finish(self) -> None:
        if self._rows or self._writer is None:
            self._flush(self.count)
        self._writer.close()


class _Spooled(EmbeddingFile):
    """A file whose header needs the number of images: its content waits in nameless files."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._files = ExitStack()
        self.numbers, *texts = (self._spool() for _ in range(4))
        self.texts = dict(zip(_TEXTS, texts, strict=True))
        self.longest = dict.fromkeys(_TEXTS, 1)

    def _add(self, image: EmbeddedImage) -> None:
        self.numbers.write(image.values.astype("<f4").tobytes())
        for name, text in zip(_TEXTS, _texts_of(image), strict=True):
            line = text.replace("\n", " ")
            self.longest[name] = max(self.longest[name], len(line))
            self.texts[name].write(f"{line}\n".encode())

    def _spool(self) -> IO[bytes]:
        return self._files.enter_context(tempfile.TemporaryFile(dir=self.path.parent))

    def close(self) -> None:
        """Give up what waits."""
        self._files.close()


class _Npz(_Spooled):
    def finish(self) -> None:
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED) as archive:
            shape = (self.count, self.width)
            with _member(archive, "embeddings", shape, "<f4") as member:
                _copy(self.numbers, member)
            for name, file in self.texts.items():
                kind = f"<U{self.longest[name]}"
                with _member(archive, name, (self.count,), kind) as member:
                    file.seek(0)
                    for line in file:
                        member.write(np.array(line[:-1].decode(), kind).tobytes())


class _Safetensors(_Spooled):
    def finish(self) -> None:
        sizes = {name: file.tell() for name, file in self.texts.items()}
        header: dict[str, Any] = {}
        end = 4 * self.count * self.width
        shape = [self.count, self.width]
        header["embeddings"] = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
        for name, size in sizes.items():
            header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
            end += size
        head = json.dumps(header).encode()
        head += b" " * (-len(head) % 8)
        with self.path.open("wb") as out:
            out.write(struct.pack("<Q", len(head)) + head)
            for file in (self.numbers, *self.texts.values()):
                _copy(file, out)


@contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: str
) -> Iterator[IO[bytes]]:
    """Open an array of an .npz archive for its values."""
    info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: equal embeddings, equal files
    with archive.open(info, "w", force_zip64=True) as member:
        npy.write_array_header_2_0(member, {"descr": kind, "fortran_order": False, "shape": shape})
        yield member


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    source.seek(0)
    while block := source.read(1 << 20):
        target.write(block)


def _texts_of(image: EmbeddedImage) -> tuple[str, ...]:
    return tuple(map(as_utf8, (image.path, image.label, image.split)))


@contextmanager
def _csv(path: Path) -> Iterator[EmbeddingFile]:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield _Csv(file)


@contextmanager
def _parquet(path: Path) -> Iterator[EmbeddingFile]:
    with path.open("wb") as file:
        yield _Parquet(file)


@contextmanager
def _spooled(kind: type[_Spooled], path: Path) -> Iterator[EmbeddingFile]:
    file = kind(path)
    try:
        yield file
    finally:
        file.close()


_KINDS: dict[str, Callable[[Path], AbstractContextManager[EmbeddingFile]]] = {
    "csv": _csv,
    "parquet": _parquet,
    "npz": partial(_spooled, _Npz),
    "safetensors": partial(_spooled, _Safetensors),
}
