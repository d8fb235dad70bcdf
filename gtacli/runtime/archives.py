"""Pickled checkpoints (.pth, .pt, .bin, .ckpt, .tar), read without running anything in them.

torch.load refuses a checkpoint for any object beside its tensors, and believes what a file says of
its sizes: a compressed zip inflates (3 MB to 3.7 GB), and storages, views and byte strings are
allocated as large as the pickle says. Here a zip must store its entries plainly, one after the
other; objects become stubs (see `pickles`), and tensors are places in the file, of which only those
that a caller wants are read.
"""

from __future__ import annotations

import os
import re
import zipfile
from typing import Any, BinaryIO, NamedTuple

import torch

from gtacli.runtime.pickles import ArchiveError, Items, Place, StoredTensor, StubUnpickler

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of the old format."""
_LOCAL_HEADER = 30
"""Bytes of a zip entry's own header before its name."""
_COUNT = 8
"""Bytes of a number before each storage of the old format."""

# Of what a state may name beside its tensors nothing allocates more than it holds.
_PLAIN = {
    "torch.device", "torch.serialization._get_layout", "_codecs.encode",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "complex")),
    *(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)),
}  # fmt: skip


class Content(NamedTuple):
    """The content of a pickled file.

    Attributes:
        payload: dictionaries, lists, numbers, texts, stubs and `StoredTensor`s.
        foreign: names of objects and functions that were not imported.
    """

    payload: Any
    foreign: tuple[str, ...]


class CallError(ArchiveError):
    """A file that names what a state does not need; the message is its name."""


def check_archive(file: BinaryIO) -> None:
    """Raise ArchiveError for a zip that `torch.load(weights_only=True)` should not read.

    Its entries must have the CRC-32 that it says, and its pickle may name only plain values.

    Args:
        file: at its start; left anywhere.
    """
    for name in read_archive(file, checksums=True).foreign:
        if name not in _PLAIN:
            raise CallError(re.sub(r"^(__builtin__|builtins)\.", "", name))


def read_archive(file: BinaryIO, checksums: bool = False) -> Content:
    """Return what a pickled checkpoint holds.

    Args:
        file: at its start; tensors can be read from it while it is open.
        checksums: whether it must be a zip whose entries have the CRC-32 that it says.

    Raises ArchiveError unless it holds as many bytes as it says.
    """
    size = os.fstat(file.fileno()).st_size
    is_zip = file.read(len(_ZIP)) == _ZIP
    file.seek(0)
    try:
        if is_zip:
            return _read_zip(file, size, checksums)
        if checksums:
            raise ArchiveError("is no archive of torch")
        return _read_legacy(file, size)
    except ArchiveError:
        raise
    except Exception as error:  # a damaged pickle makes the unpickler raise almost any type
        raise ArchiveError("is damaged or of an unknown format") from error


def read_tensors(payload: Any, depth: int = 8) -> Any:
    """Return a copy of nested dictionaries whose tensors are read; other objects stay stubs."""
    if isinstance(payload, StoredTensor):
        return payload.read()
    if isinstance(payload, dict) and depth:
        return Items({key: read_tensors(value, depth - 1) for key, value in payload.items()})
    return payload


def _read_zip(file: BinaryIO, size: int, checksums: bool) -> Content:
    """Read an archive of torch 1.6 and later: a pickle, and one entry for each storage."""
    with zipfile.ZipFile(file) as archive:
        if any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist()):
            raise ArchiveError(
                "is a TorchScript program (as OpenAI's CLIP files are), which is not run here; "
                "save the state_dict of its model"
            )
        if archive.namelist() and all(name.endswith(".npy") for name in archive.namelist()):
            raise ArchiveError("is NumPy's (.npz); timm's own names read the ones of Google's ViTs")
        entries = _plain_entries(archive, file, size)
        if checksums and (member := archive.testzip()) is not None:
            raise ArchiveError(f"holds other data than the checksum of {member[:60]!r} says")
        pickles = [n for n in entries if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise ArchiveError("is a zip archive, but not one of torch")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in entries and archive.read(order) != b"little":
            raise ArchiveError("was saved on a computer of another byte order")
        with archive.open(pickles[0]) as stream:
            unpickler = StubUnpickler(stream, lambda key, _: entries.get(f"{root}data/{key}"))
            return Content(unpickler.load(), tuple(unpickler.foreign))


def _plain_entries(archive: zipfile.ZipFile, file: BinaryIO, size: int) -> dict[str, Place]:
    """Return the places of the entries. Raises ArchiveError for packed or overlapping ones."""
    entries: dict[str, Place] = {}
    end = 0
    for entry in sorted(archive.infolist(), key=lambda one: one.header_offset):
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ArchiveError("is compressed or encrypted, which torch's own files never are")
        if entry.compress_size != entry.file_size:
            raise ArchiveError(f"says two sizes of {entry.filename[:60]!r}")
        if entry.header_offset < end or entry.filename in entries:
            raise ArchiveError(f"stores {entry.filename[:60]!r} over another entry")
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = entry.header_offset + _LOCAL_HEADER + names
        end = start + entry.file_size
        if header[:4] != _ZIP or end > size:
            raise ArchiveError(f"is cut off: {entry.filename[:60]!r} ends beyond the file")
        entries[entry.filename] = Place(file, start, entry.file_size)
    return entries


def _read_legacy(file: BinaryIO, size: int) -> Content:
    """Read a file of torch before 1.6: five pickles, then the storages."""

    def unpickler() -> StubUnpickler:
        return StubUnpickler(file, lambda _, held: Place(file, -1, held if held <= size else -1))

    if unpickler().load() != _MAGIC:
        raise ArchiveError("is a pickle, but none of torch: save its tensors with torch.save")
    for _ in range(2):  # the version and the machine
        unpickler().load()
    content = unpickler()
    payload = content.load()
    keys = unpickler().load()
    start = file.tell()
    for key in keys:
        storage = content.storages[key]
        file.seek(start)
        count = int.from_bytes(file.read(_COUNT), "little")
        width = storage.dtype.itemsize
        if count * width != storage.place.size or start + _COUNT + count * width > size:
            raise ArchiveError(
                f"says that storage {key[:20]} has {storage.place.size:,} bytes, more than the "
                "file has"
            )
        storage.place.start = start + _COUNT
        start += _COUNT + count * width
    if any(storage.place.start < 0 for storage in content.storages.values()):
        raise ArchiveError("is damaged or of an unknown format")
    return Content(payload, tuple(content.foreign))
