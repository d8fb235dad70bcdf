"""The files of the feature cache: one column of one split's images each, mapped into memory.

    DIGEST.safetensors     `values` fp32 (n, C), `labels` (n,), `rows` (n,) indices of the images
                           among those requested, `keys` (UTF-8, each followed by a NUL); metadata:
                           `kind` (the cache key), `skipped` (index to reason), and `digest` (of
                           the file, checked when it is opened)
    DIGEST/00000.safetensors ...    blocks of an unfinished file

A file is named after the digest of its cache key, which covers everything that determines the
values; the key in the file is compared as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gtacli.config.base import StrictModel
from gtacli.data.base import Record
from gtacli.errors import RunError
from gtacli.models.feature_columns import Pool
from gtacli.runtime.atomic import replace_atomic
from gtacli.runtime.strict_json import parse_json
from gtacli.runtime.tensor_file import check_tensor_file, write_tensor_file

METHOD = 1
"""Version of the computation from an image to its values."""


class FeatureKey(StrictModel):
    """The cache key of a file; `model`, the spec, is informative and not part of the digest.

    Attributes:
        fingerprint: of the model; see `gtacli.models.fingerprint`.
        data: digest of the images' keys, labels, sizes and modification times.
    """

    model: str
    fingerprint: str
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str
    layer: int
    pool: Pool
    data: str
    method: int = METHOD

    @property
    def digest(self) -> str:
        text = self.model_dump_json(exclude={"model"})
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class FeatureTable:
    """The content of a file of the cache; `values` are mapped."""

    key: FeatureKey
    values: Tensor
    rows: Tensor
    skipped: dict[int, str]

    def select(self, rows: Tensor) -> Tensor:
        """Return the values of some of its rows; those of all rows stay mapped."""
        if len(rows) == len(self.rows):
            return self.values
        return self.values[torch.isin(self.rows, rows)]


def read_column(path: Path) -> FeatureTable:
    """Open a file of the cache.

    Raises FileNotFoundError; for a damaged file OSError, SafetensorError or ValueError.
    """
    check_tensor_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        try:
            key = FeatureKey.model_validate_json(metadata.get("kind", ""))
        except ValidationError:
            raise ValueError("its `kind` is not the key of features") from None
        values, rows = _read_values(file)
        if not values.isfinite().all():
            raise ValueError("its `values` are not all finite")
        return FeatureTable(key, values, rows, _parse_skipped(metadata))


def block_file(folder: Path, number: int) -> Path:
    """Return the path of a block."""
    return folder / f"{number:05}.safetensors"


def is_block(path: Path) -> bool:
    """Return whether the file is a readable block."""
    try:
        check_tensor_file(path)
        _read_block(path)
    except (OSError, SafetensorError, ValueError):
        return False
    return True


def write_block(
    path: Path, features: Sequence[tuple[int, Tensor]], column: int, skipped: dict[int, str]
) -> None:
    """Write one column of (row, features (columns, C)) pairs, and the rows that were skipped."""
    rows = torch.tensor([row for row, _ in features], dtype=torch.int64)
    values = torch.stack([one[column] for _, one in features]) if features else torch.empty(0, 0)
    metadata = {"skipped": json.dumps(skipped)}
    _write(path, {"rows": rows, "values": values}, metadata)


def merge_blocks(
    path: Path, blocks: Sequence[Path], key: FeatureKey, records: Sequence[Record]
) -> None:
    """Merge all blocks into one file, with one block in memory (safetensors would need all)."""
    opened = [_read_block(block) for block in blocks]
    skipped = {row: reason for _, _, reasons in opened for row, reason in reasons.items()}
    rows = torch.cat([torch.empty(0, dtype=torch.int64), *(rows for rows, _, _ in opened)])
    readable = [records[row] for row in rows.tolist()]
    keys = "".join(f"{record.key}\0" for record in readable).encode("utf-8", "surrogateescape")
    labels = torch.tensor([record.label for record in readable], dtype=torch.int64)
    tensors = {
        "rows": rows,
        "labels": labels,
        "values": [v for _, v, _ in opened if len(v)] or torch.empty(0, 0),
        "keys": torch.tensor(list(keys), dtype=torch.uint8),
    }
    metadata = {"kind": key.model_dump_json(), "skipped": json.dumps(skipped)}
    _write(path, tensors, metadata)


def _read_block(path: Path) -> tuple[Tensor, Tensor, dict[int, str]]:
    """Return (rows, values, skipped); the values are mapped."""
    with safe_open(path, "pt") as file:
        values, rows = _read_values(file)
        return rows, values, _parse_skipped(file.metadata() or {})


def _read_values(file: Any) -> tuple[Tensor, Tensor]:
    """Return (values, rows), mapped. Raises ValueError for other types, shapes or images."""
    for name, dtype, ndim in (("values", "F32", 2), ("rows", "I64", 1)):
        if name not in file.keys():  # noqa: SIM118 (the file is no dict)
            raise ValueError(f"it has no `{name}`")
        part = file.get_slice(name)
        if part.get_dtype() != dtype or len(part.get_shape()) != ndim:
            raise ValueError(f"its `{name}` are {part.get_dtype()} {tuple(part.get_shape())}")
    values, rows = file.get_tensor("values"), file.get_tensor("rows")
    if len(values) != len(rows):
        raise ValueError(f"it has {len(values)} `values` and {len(rows)} `rows`")
    if len(rows) and (rows[0] < 0 or (rows.diff() <= 0).any()):
        raise ValueError("its `rows` are not in order")
    return values, rows


def _parse_skipped(metadata: Mapping[str, str]) -> dict[int, str]:
    """Return the reasons by image. Raises ValueError."""
    skipped = parse_json(metadata.get("skipped", ""))
    if not isinstance(skipped, dict) or not all(isinstance(v, str) for v in skipped.values()):
        raise ValueError("its `skipped` is no object from image to reason")
    return {int(row): text for row, text in skipped.items()}


def _write(
    path: Path, tensors: Mapping[str, Tensor | Sequence[Tensor]], metadata: Mapping[str, str]
) -> None:
    """Write a file with its digest and move it into place. Raises RunError if that fails."""
    try:
        replace_atomic(path, lambda p: write_tensor_file(p, tensors, metadata, seal=True))
    except OSError as error:
        raise RunError(f"cannot write features to {path} ({error.strerror or error})") from error
