"""An unpickler that imports, builds and calls nothing, whatever a pickle names.

Of all that a pickle can ask for only the parts of a checkpoint get a meaning: dictionaries, and
tensors as places in the file. Every other object, be it a configuration, a path, a module of a
network or a bomb, becomes a `Stub`, which takes all that pickles do to an object and keeps the
entries that it was given, since a network may lie in them.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

# Storages by their names in pickles; the dtypes of quantized ones are those of their values.
_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
    "QInt32Storage": torch.int32, "QInt8Storage": torch.int8, "QUInt8Storage": torch.uint8,
}  # fmt: skip
_MOST_SIDES = 64
"""Most dimensions of a tensor, as in torch."""


class ArchiveError(ValueError):
    """The reason why a pickled file is not read, as a sentence about "it"."""


class Stub:
    """A substitute for an object, class or function that a pickle names.

    Attributes:
        name: what the pickle calls it.
        entries: attributes and items that the pickle sets, by key.
    """

    __slots__ = ("_make", "entries", "name")

    _make: Callable[..., Any] | None
    name: str
    entries: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        # Pickles call `cls.__new__(cls)`, also where a stub stands for the class.
        made = object.__new__(Stub)
        made.name = getattr(cls, "name", "") if isinstance(cls, Stub) else ""
        made.entries = {}
        made._make = None
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._make is not None:
            return self._make(*args)
        return Stub.__new__(self)  # type: ignore[arg-type]

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.entries.update(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        """Accept an element and forget it."""

    def extend(self, values: Any) -> None:
        """Accept elements and forget them."""

    add = append


class Items(dict[Any, Any]):
    """A dictionary of any kind; attributes that a pickle gives it are ignored."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class Place:
    """The bytes of a storage in a file.

    Attributes:
        start: of the bytes; -1 until it is known.
        size: of the bytes.
    """

    __slots__ = ("file", "size", "start")

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size

    def __setstate__(self, state: Any) -> None:
        pass


class Storage:
    """The `numel` elements of a storage from `first` on."""

    __slots__ = ("dtype", "first", "numel", "place")

    def __init__(self, place: Place, dtype: torch.dtype, numel: int, first: int = 0) -> None:
        self.place, self.dtype, self.numel, self.first = place, dtype, numel, first

    def __setstate__(self, state: Any) -> None:
        pass


class StoredTensor:
    """A tensor that has not been read yet."""

    __slots__ = ("_offset", "_storage", "_strides", "shape")

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self._storage, self._offset, self.shape, self._strides = storage, offset, shape, strides

    def __setstate__(self, state: Any) -> None:
        pass

    def read(self) -> Tensor:
        """Read the tensor; its file must be open still."""
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self._storage.dtype)
        place, width = self._storage.place, self._storage.dtype.itemsize
        span = _span(self.shape, self._strides)
        values = torch.empty(span * width, dtype=torch.uint8)
        place.file.seek(place.start + (self._storage.first + self._offset) * width)
        if place.file.readinto(values.numpy()) != len(values):  # type: ignore[attr-defined]
            raise ArchiveError("is cut off")
        return values.view(self._storage.dtype).as_strided(self.shape, self._strides)


# The unpickler in Python, since that in C allocates as much as a number of the pickle says.
class StubUnpickler(pickle._Unpickler):
    """Reads a pickle without importing, building or calling what it names.

    Args:
        place_of: returns the place of a storage by its key and its size in bytes, None if there is
            none.

    Attributes:
        storages: by key.
        foreign: names of what became stubs.
    """

    def __init__(self, file: Any, place_of: Callable[[str, int], Place | None]) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogatepass")
        self._place_of = place_of
        self.storages: dict[str, Storage] = {}
        self.foreign: dict[str, None] = {}

    def find_class(self, module: str, name: str) -> Stub:
        full = f"{module}.{name}"
        stub = Stub()
        stub.name = full
        stub._make = _MAKERS.get(full)
        if stub._make is None and not _is_storage(full):
            self.foreign[full] = None
        return stub

    def persistent_load(self, pid: Any) -> Storage:
        _, kind, key, _, numel = pid[:5]
        dtype = _DTYPES.get(getattr(kind, "name", "").rpartition(".")[2])
        if dtype is None or type(key) is not str or type(numel) is not int or numel < 0:
            raise ArchiveError("is damaged or of an unknown format")
        size = numel * dtype.itemsize
        known = self.storages.get(key)
        place = known.place if known is not None else self._place_of(key, size)
        held = 0 if place is None else place.size
        if place is None or size > held:
            raise ArchiveError(
                f"says that storage {key[:20]} has {size:,} bytes, but holds {held:,}"
            )
        storage = Storage(place, dtype, numel)
        self.storages.setdefault(key, storage)
        view = pid[5] if len(pid) > 5 else None
        return storage if view is None else _part(storage, view)


def _is_storage(name: str) -> bool:
    return name.startswith("torch.") and name.rpartition(".")[2] in _DTYPES


def _part(storage: Storage, view: Any) -> Storage:
    """Return a part of a storage, as files of torch before 0.4 have them."""
    _, first, numel = view
    _require_counts(first, numel)
    if first + numel > storage.numel:
        raise ArchiveError("is damaged or of an unknown format")
    return Storage(storage.place, storage.dtype, numel, first)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
    if not isinstance(storage, Storage):
        return Stub()
    if len(shape) != len(strides) or len(shape) > _MOST_SIDES:
        raise ArchiveError("is damaged or of an unknown format")
    _require_counts(offset, *shape, *strides)
    last = 0 if 0 in shape else offset + _span(shape, strides)
    if last > storage.numel or math.prod(shape) > storage.numel:
        raise ArchiveError(f"has a tensor of shape {shape} in {storage.numel} stored values")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _require_counts(*values: Any) -> None:
    if any(type(value) is not int or value < 0 for value in values):
        raise ArchiveError("is damaged or of an unknown format")


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the number of stored elements from a tensor's first one to its last one."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def _first(value: Any, *_: Any) -> Any:
    return value


def _of_subclass(make: Any, _kind: Any = None, args: Any = (), *_: Any) -> Any:
    return make(*args) if isinstance(make, Stub) and isinstance(args, tuple) else Stub()


def _items(*args: Any) -> Items:
    given = args[0] if args and isinstance(args[0], dict | list) else ()
    return Items(given)


_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch.Size": _first,
    "collections.OrderedDict": _items,
    "collections.defaultdict": _items,
    "collections.Counter": _items,
}
