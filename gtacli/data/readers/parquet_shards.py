"""Family `parquet`: Parquet files with images in them, with the spec `parquet/URL`.

URL is a pattern of files, a folder of them, or `https://`. They are read as a stream (see
`gtacli.data.streams.parquets`); for classes and splits `hfds/FOLDER` has them indexed by the
library `datasets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gtacli.data.base import ImageDataset, StreamedFamily
from gtacli.data.streams.names import find_shards
from gtacli.errors import GtaError
from gtacli.runtime.secrets import mask_secrets

if TYPE_CHECKING:
    from gtacli.data.streams.stream import ImageStream


class ParquetShards(StreamedFamily):
    """The reader of Parquet files with images."""

    help = "Parquet files with images, read one after the other: parquet/FOLDER, /PATTERN, /URL"
    usage = "parquet/URL"

    def open(self, rest: str) -> ImageDataset:
        shown = mask_secrets(f"parquet/{rest}")
        raise GtaError(
            f"{shown} is read as a stream by `gta discover`, `gta embed` and `gta pretrain`; this "
            "command needs an index of its images and classes: hfds/FOLDER"
        )

    def stream(self, rest: str) -> ImageStream:
        from gtacli.data.streams.parquets import require_pyarrow
        from gtacli.data.streams.stream import ImageStream, ParquetShard

        require_pyarrow(mask_secrets(f"parquet/{rest}"))
        return ImageStream(find_shards("parquet", rest, ".parquet"), ParquetShard)
