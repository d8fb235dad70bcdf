"""The files of `features`: one column of the images of one part, mapped into memory when read.

    DIGEST.safetensors     `values` fp32 (n, C), `labels` (n,), `rows` (n,) places among the images
                           asked for, `keys` (UTF-8, each ended by a NUL); metadata: `kind`, and
                           `skipped` (why which place has no row)
    DIGEST/00000.safetensors ...    blocks of an unfinished one

A file's name is the digest of its kind: all that decides its values. Another network, another
image, another way of seeing it has another name; the kind inside is compared as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gtacli.config.base import StrictModel
from gtacli.data.base import Record
from gtacli.errors import RunError
from gtacli.probing.features.columns import Pool
from gtacli.runtime.atomic import replace_atomic

METHOD = 1
"""Version of the way from an image to its values."""


class FeatureKind(StrictModel):
    """All that decides a file's values; `model`, the spec, is for people and decides nothing.

    Attributes:
        fingerprint: of the network; see `gtacli.models.fingerprint`.
        data: digest of the images' keys, labels, sizes and times of change.
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
        deciding = self.model_dump_json(exclude={"model"})
        return hashlib.sha256(deciding.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Stored:
    kind: FeatureKind
    values: Tensor
    rows: Tensor
    skipped: dict[int, str]

    def of(self, rows: Tensor) -> Tensor:
        """Values of some of its rows; of all of them still mapped."""
        if len(rows) == len(self.rows):
            return self.values
        return self.values[torch.isin(self.rows, rows)]


def read_column(path: Path) -> Stored:
    """Its values are mapped. Raises FileNotFoundError, or what a damaged file raises."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        kind = FeatureKind.model_validate_json(metadata["kind"])
        skipped = {int(row): text for row, text in json.loads(metadata["skipped"]).items()}
        return Stored(kind, file.get_tensor("values"), file.get_tensor("rows"), skipped)


def block_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.safetensors"


def is_block(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return "values" in file.keys()  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError):
        return False


def write_block(
    path: Path, made: Sequence[tuple[int, Tensor]], column: int, skipped: dict[int, str]
) -> None:
    rows = torch.tensor([row for row, _ in made], dtype=torch.int64)
    values = torch.stack([one[column] for _, one in made]) if made else torch.empty(0, 0)
    metadata = {"skipped": json.dumps(skipped)}
    _write_whole(path, lambda p: save_file({"rows": rows, "values": values}, p, metadata))


def merge_blocks(
    path: Path, blocks: Sequence[Path], kind: FeatureKind, records: Sequence[Record]
) -> None:
    """One file of all blocks, in the memory of one: safetensors itself would want them all."""
    opened = [_read_block(block) for block in blocks]
    skipped = {row: reason for _, _, reasons in opened for row, reason in reasons.items()}
    rows = torch.cat([torch.empty(0, dtype=torch.int64), *(rows for rows, _, _ in opened)])
    kept = [records[row] for row in rows.tolist()]
    keys = "".join(f"{record.key}\0" for record in kept).encode("utf-8", "surrogateescape")
    labels = torch.tensor([record.label for record in kept], dtype=torch.int64)
    width = max((values.shape[1] for _, values, _ in opened), default=0)
    sizes = {"rows": 8 * len(rows), "labels": 8 * len(rows), "values": 4 * len(rows) * width}
    shapes: dict[str, list[Any]] = {
        "rows": ["I64", [len(rows)]],
        "labels": ["I64", [len(rows)]],
        "values": ["F32", [len(rows), width]],
        "keys": ["U8", [len(keys)]],
    }
    metadata = {"kind": kind.model_dump_json(), "skipped": json.dumps(skipped)}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + sizes.get(name, len(keys))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.write(rows.numpy().tobytes() + labels.numpy().tobytes())
            for _, values, _ in opened:
                file.write(values.numpy().data)
            file.write(keys)

    _write_whole(path, write)


def _read_block(path: Path) -> tuple[Tensor, Tensor, dict[int, str]]:
    """(rows, values, skipped); the values are mapped."""
    with safe_open(path, "pt") as file:
        skipped = json.loads(file.metadata()["skipped"])
        by_row = {int(row): text for row, text in skipped.items()}
        return file.get_tensor("rows"), file.get_tensor("values"), by_row


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Nobody reads half a file. Raises RunError where it cannot be written."""
    try:
        replace_atomic(path, write)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"features: cannot write {path} ({reason})") from error
