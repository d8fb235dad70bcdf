"""The config of `gta discover`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from gtacli.config.backend import BackendConfig
from gtacli.config.common import FilePath


def _read_share(value: object) -> object:
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


Share = Annotated[
    tuple[int, int],
    BeforeValidator(_read_share, json_schema_input_type=str),
    PlainSerializer(lambda share: f"{share[0]}/{share[1]}", return_type=str),
]


class DiscoverConfig(BackendConfig):
    """Which images get a map, and where the maps are kept."""

    data: str | None = Field(
        default=None,
        description="a data set, all its parts, or a folder of images without classes; instead of "
        "naming images",
        json_schema_extra={"metavar": "SPEC"},
    )
    shard: Share = Field(
        default=(0, 1),
        description="do the I-th of N shares of the images; all may run at once into one --out",
        json_schema_extra={"metavar": "I/N", "default": "0/1, all"},
    )
    out: FilePath | None = Field(
        default=None,
        description="folder of the maps; what it has already is not done again",
        json_schema_extra={"metavar": "CACHE"},
    )
    overwrite: bool = Field(default=False, description="remove the maps that are there first")
