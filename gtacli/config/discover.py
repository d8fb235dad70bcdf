"""The config of `gta discover`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from gtacli.config.backend import BackendConfig
from gtacli.config.common import FilePath


def _read_shard(value: object) -> object:
    if isinstance(value, str):
        numbers = re.fullmatch(r"(\d+)/(\d+)", value.strip())
        value = tuple(int(n) for n in numbers.groups()) if numbers else value
    if isinstance(value, list):
        value = tuple(value)
    if not (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(n, int) for n in value)
        and 0 <= value[0] < value[1]
    ):
        raise ValueError(f"must be I/N with I from 0 to N - 1, got {value!r}")
    return value


# The I-th of N parts of the images, written as "I/N".
Shard = Annotated[
    tuple[int, int],
    BeforeValidator(_read_shard, json_schema_input_type=str),
    PlainSerializer(lambda shard: f"{shard[0]}/{shard[1]}", return_type=str),
]


class DiscoverConfig(BackendConfig):
    """Options of the computation of object maps."""

    data: str | None = Field(
        default=None,
        description="dataset, with all its splits, or a folder of images without classes; instead "
        "of image arguments",
        json_schema_extra={"metavar": "SPEC"},
    )
    shard: Shard = Field(
        default=(0, 1),
        description="process the I-th of N parts of the images; all parts may run at the same "
        "time with the same `out`",
        json_schema_extra={"metavar": "I/N", "default": "0/1, all images"},
    )
    out: FilePath | None = Field(
        default=None,
        description="cache folder of the maps; images that it contains are skipped",
        json_schema_extra={"metavar": "CACHE"},
    )
    overwrite: bool = Field(default=False, description="remove the maps in `out` first")
