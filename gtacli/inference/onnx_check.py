"""The check that an ONNX file does nothing but compute, by its structure, without a library.

onnxruntime would read weights from any file that a model names, and run loops without an end and
operators of others. Files of `gta export` have none of that, so such a file is refused. The format
is that of Protocol Buffers: fields of a number, a wire type and a value; a message is a field of
bytes. The numbers are those of onnx.proto (IR version 3 and later).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

_MODEL = MappingProxyType({"graph": 7, "metadata": 14, "functions": 25})
_GRAPH = MappingProxyType({"node": 1, "initializer": 5, "sparse": 15})
_NODE = MappingProxyType({"attribute": 5, "domain": 7})
_ATTRIBUTE = MappingProxyType(
    {"tensor": 5, "graph": 6, "tensors": 10, "graphs": 11, "sparse": 22, "sparses": 23}
)
_TENSOR = MappingProxyType({"external_data": 13, "data_location": 14})
_OWN_DOMAINS = (b"", b"ai.onnx")
_LONGEST_VARINT = 10  # bytes


class _Field(NamedTuple):
    name: str
    value: int | memoryview


def read_metadata(data: bytes) -> Mapping[str, str]:
    """Return the metadata of an ONNX model.

    Raises ValueError with one line for a file of another form, and for one that reads other files,
    has loops, branches or functions, or operators that are not ONNX's own.
    """
    found: dict[str, str] = {}
    graphs = 0
    for field in _fields(memoryview(data), _MODEL):
        if field.name == "graph":
            graphs += 1
            _check_graph(_bytes(field))
        elif field.name == "functions":
            raise ValueError("it has functions, which a file of gta export has not")
        else:
            pair = [*_fields(_bytes(field), {"key": 1, "value": 2})]
            texts = {each.name: bytes(_bytes(each)).decode("utf-8", "replace") for each in pair}
            found[texts.get("key", "")] = texts.get("value", "")
    if graphs != 1:
        raise ValueError("it is no ONNX model")
    return found


def _check_graph(graph: memoryview) -> None:
    for field in _fields(graph, _GRAPH):
        if field.name == "initializer":
            _check_tensor(_bytes(field))
        elif field.name == "node":
            _check_node(_bytes(field))
        else:
            raise ValueError("it has sparse weights, which a file of gta export has not")


def _check_node(node: memoryview) -> None:
    for field in _fields(node, _NODE):
        if field.name == "domain":
            if bytes(_bytes(field)) not in _OWN_DOMAINS:
                raise ValueError("it has operators that are not ONNX's own")
            continue
        for part in _fields(_bytes(field), _ATTRIBUTE):
            if part.name not in ("tensor", "tensors"):
                raise ValueError("it has loops or branches, which a file of gta export has not")
            _check_tensor(_bytes(part))


def _check_tensor(tensor: memoryview) -> None:
    for field in _fields(tensor, _TENSOR):
        if field.name == "external_data" or field.value != 0:
            raise ValueError("its weights are in other files, which are not read")


def _fields(message: memoryview, names: Mapping[str, int]) -> Iterator[_Field]:
    """Yield the fields of a message that have one of the numbers."""
    by_number = {number: name for name, number in names.items()}
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        wire, name = key & 7, by_number.get(key >> 3)
        value: int | memoryview
        if wire == 0:
            value, at = _varint(message, at)
        elif wire == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif wire in (1, 5):
            value, at = 0, at + (8 if wire == 1 else 4)
        else:
            raise ValueError("it is no ONNX model")
        if at > end:
            raise ValueError("it is no ONNX model, or lacks its end")
        if name is not None:
            yield _Field(name, value)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("it is no ONNX model, or lacks its end")


def _bytes(field: _Field) -> memoryview:
    if isinstance(field.value, int):
        raise ValueError("it is no ONNX model")
    return field.value
