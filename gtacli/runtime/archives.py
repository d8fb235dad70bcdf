"""An examination of pickled weights before `torch.load` reads them.

`weights_only=True` runs no code, but believes sizes: a compressed zip inflates (3 MB to 3.7 GB),
and storages, views and byte strings are allocated as large as the pickle says. Here a zip must
store its entries plainly, one after the other, and the pickle is run through with inert classes in
place of all that it names: nothing is imported, built or called.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

_ZIP = b"PK\x03\x04"
_LOCAL_HEADER = 30
"""Bytes of a zip entry's own header before its name."""
_ITEM_SIZES = {
    "DoubleStorage": 8, "LongStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
    "FloatStorage": 4, "IntStorage": 4, "QInt32Storage": 4,
    "HalfStorage": 2, "BFloat16Storage": 2, "ShortStorage": 2,
    "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "QInt8Storage": 1, "QUInt8Storage": 1,
    "UntypedStorage": 1,
}  # fmt: skip
# What a state_dict, or an official checkpoint around one, calls; all others could allocate freely.
_CALLS = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state)"
    r"|torch\.(Size|device|_tensor\._rebuild_from_type_v2|serialization\._get_layout)"
    r"|collections\.(OrderedDict|defaultdict|Counter)|argparse\.Namespace|_codecs\.encode"
    r"|(builtins|__builtin__)\.(set|complex)|numpy\.dtype|numpy\._?core\.multiarray\.scalar"
)
_NUMBER_TYPES = re.compile(r"[<>|=]?([biufc?])(1|2|4|8|16)?")


class ArchiveError(ValueError):
    """The reason why a pickled file is not read, as a sentence about "it"."""


class CallError(ArchiveError):
    """A file that calls what weights do not need; the message is its name."""


def check_archive(file: BinaryIO, checksums: bool = False) -> None:
    """Raise ArchiveError unless a pickled checkpoint holds as many bytes as it says.

    Args:
        file: at its start; left anywhere.
        checksums: whether it must be a zip whose entries have the CRC-32 that it says.
    """
    size = os.fstat(file.fileno()).st_size
    is_zip = file.read(len(_ZIP)) == _ZIP
    file.seek(0)
    try:
        if is_zip:
            _check_zip(file, size, checksums)
        elif checksums:
            raise ArchiveError("is no archive of torch")
        else:
            _check_legacy(file, size)
    except ArchiveError:
        raise
    except Exception as error:  # a damaged pickle makes the unpickler raise almost any type
        raise ArchiveError("is damaged or of an unknown format") from error


def _check_zip(file: BinaryIO, size: int, checksums: bool) -> None:
    """Check an archive of torch 1.6 and later: a pickle, and one entry for each storage."""
    with zipfile.ZipFile(file) as archive:
        if any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist()):
            raise ArchiveError(
                "is a TorchScript program (as OpenAI's CLIP files are), which is not run here; "
                "save the state_dict of its model"
            )
        entries = _plain_entries(archive, file, size)
        if checksums and (member := archive.testzip()) is not None:
            raise ArchiveError(f"holds other data than the checksum of {member[:60]!r} says")
        pickles = [n for n in entries if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise ArchiveError("is a zip archive, but not one of torch")
        root = pickles[0].removesuffix("data.pkl")

        def size_of(key: str) -> int:
            return entries.get(f"{root}data/{key}", -1)

        with archive.open(pickles[0]) as stream:
            _InertUnpickler(stream, size_of).load()


def _plain_entries(archive: zipfile.ZipFile, file: BinaryIO, size: int) -> dict[str, int]:
    """Return the sizes of the entries. Raises ArchiveError for packed or overlapping ones."""
    entries: dict[str, int] = {}
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
        end = entry.header_offset + _LOCAL_HEADER + names + entry.file_size
        if header[:4] != _ZIP or end > size:
            raise ArchiveError(f"is cut off: {entry.filename[:60]!r} ends beyond the file")
        entries[entry.filename] = entry.file_size
    return entries


def _check_legacy(file: BinaryIO, size: int) -> None:
    """Check a file of torch before 1.6: five pickles, then the storages."""

    def size_of(key: str) -> int:
        return size

    for _ in range(3):  # the magic number, the version and the machine
        _InertUnpickler(file, size_of).load()
    content = _InertUnpickler(file, size_of)
    content.load()
    held = sum(content.storages.values())
    if held > size - file.tell():
        raise ArchiveError(f"says that it holds {held:,} bytes of tensors, more than the file has")


class _Inert:
    """A substitute for every object of a pickle; it accepts all that pickles do to an object."""

    name = ""
    storage = 0

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    add = append


class _Storage(_Inert):
    """A storage of `numel` elements."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel = numel


# The unpickler in Python, since that in C allocates as much as a number of the pickle says.
class _InertUnpickler(pickle._Unpickler):
    """Runs through a pickle without importing, building or calling what it names.

    Args:
        size_of: returns the stored bytes of a storage by its key, -1 if there is none.

    Attributes:
        storages: bytes of the storages by key.
    """

    def __init__(self, file: Any, size_of: Callable[[str], int]) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogatepass")
        self.size_of = size_of
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"

        def build(kind: type[_Inert], *args: Any) -> _Inert:
            _check_call(full, args)
            return object.__new__(kind)

        return type("Named", (_Inert,), {"name": full, "__new__": build})

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, numel = pid[:5]
        name = kind if isinstance(kind, str) else getattr(kind, "name", "")
        width = _ITEM_SIZES.get(name.rpartition(".")[2])
        if width is None or type(numel) is not int or numel < 0:
            raise ArchiveError("is damaged or of an unknown format")
        held = self.size_of(str(key))
        if numel * width > held:
            text = f"says that storage {str(key)[:20]} has {numel * width:,} bytes"
            raise ArchiveError(f"{text}, but holds {max(held, 0):,}")
        self.storages[str(key)] = max(numel * width, self.storages.get(str(key), 0))
        return _Storage(numel)


def _check_call(name: str, args: tuple[Any, ...]) -> None:
    """Raise ArchiveError for a call that weights do not need, or that lies about a size."""
    if not _CALLS.fullmatch(name):
        raise CallError(re.sub(r"^(__builtin__|builtins)\.", "", name))
    short = name.rpartition(".")[2]
    if short in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        storage, offset, shape = args[:3]
        last = _last_element(offset, shape, args[3])
        if last > storage.numel or math.prod(shape) > storage.numel:
            raise ArchiveError(f"has a tensor of shape {shape} in {storage.numel} stored values")
    elif short == "dtype" and not (isinstance(args[0], str) and _NUMBER_TYPES.fullmatch(args[0])):
        raise CallError(f"numpy.dtype({str(args[0])[:20]!r})")
    elif short == "scalar" and len(args) != 2:
        raise CallError(name)


def _last_element(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the number of stored elements that a view needs; 0 for an empty one."""
    if any(n < 0 for n in (offset, *shape, *strides)):
        raise ArchiveError(f"has a tensor of shape {shape}")
    if 0 in shape:
        return 0
    return 1 + offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
