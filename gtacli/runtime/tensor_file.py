"""Writing of safetensors files, so that equal content gives equal files, byte for byte.

The library's own writer orders the metadata at random. The layout is the library's: the header as
JSON, padded to 8 bytes; then the tensors, those of larger elements first, and by name.

A sealed file has a `digest` in its metadata: the SHA-256 of the whole file, with 64 zeros in its
own place. Whatever else reads safetensors ignores it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from gtacli.runtime.regular import open_regular

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_UNSEALED = "0" * 64
_MARK = b'"digest":"'
_MAX_HEADER = 100_000_000  # as the library has it
_BLOCK = 1 << 20


def write_tensor_file(
    path: Path,
    tensors: Mapping[str, Tensor | Sequence[Tensor]],
    metadata: Mapping[str, str],
    seal: bool = False,
) -> None:
    """Write tensors as safetensors.

    Args:
        tensors: by name; a sequence is joined along its first dimension, one after the other, so
            that only one has to be in memory.
        seal: add the digest.

    Raises OSError.
    """
    parts = {name: [t] if isinstance(t, Tensor) else [*t] for name, t in tensors.items()}
    order = sorted(parts, key=lambda name: (-parts[name][0].element_size(), name))
    texts = dict(metadata) | ({"digest": _UNSEALED} if seal else {})
    header: dict[str, Any] = {"__metadata__": dict(sorted(texts.items()))}
    end = 0
    for name in order:
        first, *others = parts[name]
        shape = list(first.shape)
        if others:
            shape[0] += sum(len(part) for part in others)
        start, end = end, end + sum(part.numel() * part.element_size() for part in parts[name])
        header[name] = {"dtype": _TYPES[first.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head)
    with path.open("wb") as file:
        file.write(head)
        for name in order:
            for part in parts[name]:
                data = _bytes(part)
                digest.update(data)
                file.write(data)
        if seal:
            file.seek(head.index(_MARK + _UNSEALED.encode()) + len(_MARK))
            file.write(digest.hexdigest().encode())


def check_tensor_file(path: Path) -> None:
    """Compare a sealed file to its digest.

    Raises OSError, or ValueError if they differ or there is none.
    """
    with open_regular(path) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MAX_HEADER:
            raise ValueError("it is no safetensors file")
        text = file.read(size)
        start = text.find(_MARK) + len(_MARK)
        sealed = text[start : start + len(_UNSEALED)]
        if start < len(_MARK):
            raise ValueError("it has no digest")
        zeros = text[:start] + _UNSEALED.encode() + text[start + len(_UNSEALED) :]
        digest = hashlib.sha256(size.to_bytes(8, "little") + zeros)
        _add_rest(digest, file)
    if digest.hexdigest().encode() != sealed:
        raise ValueError("its content is not that of its digest")


def _add_rest(digest: Any, file: BinaryIO) -> None:
    while block := file.read(_BLOCK):
        digest.update(block)


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
