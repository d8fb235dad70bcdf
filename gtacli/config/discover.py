"""The config of `gta discover`."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from gtacli.config.backend import BackendConfig
from gtacli.config.common import FilePath, PartChoice, columns_option
from gtacli.config.option import option
from gtacli.config.shards import (
    EXECUTOR,
    Shard,
    executor_option,
    executors_option,
    jobs_option,
    require_executor,
)


class DiscoverConfig(BackendConfig):
    """Options of the computation of object maps."""

    part_choices: ClassVar[tuple[PartChoice, ...]] = (*BackendConfig.part_choices, EXECUTOR)

    data: str | None = option(
        None,
        "dataset, with all its splits, or a folder of images without classes; instead of "
        "image arguments. wds/ and parquet/ are read as a stream",
        metavar="SPEC",
    )
    columns: str | None = columns_option()
    shard: Shard = option(
        (0, 1),
        "process the I-th of N parts of the images, or of the shards of wds/ and parquet/; all "
        "parts may run at the same time with the same `out`",
        metavar="I/N",
        shown="0/1, all images",
    )
    executor: str | None = executor_option(
        "compute parts of the images as commands of their own, then collect them"
    )
    executors: dict[str, dict[str, Any]] = executors_option()
    jobs: int | None = jobs_option()
    out: FilePath | None = option(
        None, "cache folder of the maps; images that it contains are skipped", metavar="CACHE"
    )
    overwrite: bool = option(False, "remove the maps in `out` first")

    @model_validator(mode="after")
    def _check_parts(self) -> DiscoverConfig:
        require_executor(self.executor, self.jobs)
        return self
