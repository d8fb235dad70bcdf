"""Shards that tests write."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


def write_tar(path: Path, images: dict[str, bytes]) -> None:
    """Write images by their names, each with a label."""
    with tarfile.open(path, "w") as tar:
        for name, data in images.items():
            for member, content in ((name, data), (f"{name.partition('.')[0]}.cls", b"3")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def write_parquet(path: Path, images: list[bytes | None], group: int = 3) -> None:
    """Write images as rows, in groups of a few."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"bytes": data, "path": None} for data in images]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    parquet.write_table(pa.table({"image": pa.array(rows, kind)}), path, row_group_size=group)
