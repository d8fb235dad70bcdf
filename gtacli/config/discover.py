"""The config of `gta discover`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from gtacli.config.backend import BackendConfig
from gtacli.config.common import FilePath, columns_option
from gtacli.config.option import option


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

    data: str | None = option(
        None,
        "dataset, with all its splits, or a folder of images without classes; instead of "
        "image arguments",
        metavar="SPEC",
    )
    columns: str | None = columns_option()
    shard: Shard = option(
        (0, 1),
        "process the I-th of N parts of the images; all parts may run at the same time with "
        "the same `out`",
        metavar="I/N",
        shown="0/1, all images",
    )
    executor: str | None = option(
        None,
        "compute parts of the images as commands of their own: local, slurm, ray, or a plug-in's "
        "executor; then collect them",
        metavar="NAME",
        shown="off",
    )
    jobs: int | None = option(None, "number of these parts", ge=1, shown="one a GPU; slurm, ray: 8")
    out: FilePath | None = option(
        None, "cache folder of the maps; images that it contains are skipped", metavar="CACHE"
    )
    overwrite: bool = option(False, "remove the maps in `out` first")
