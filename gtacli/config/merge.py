"""The config of `gta merge`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gtacli.config.common import CommonConfig, RecordConfig
from gtacli.config.option import option


class MergeConfig(RecordConfig, CommonConfig):
    """Options of the averaging of weights."""

    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] | None = option(
        None,
        "weight of the runs in the mean with their source, whose weight is 1 - alpha; auto: "
        "chosen on held-out images",
        metavar="X|auto",
        shown="1 for several runs, auto for one",
    )
    greedy: bool = option(
        False,
        "of several runs keep only those that raise the accuracy on held-out images, the best "
        "first",
    )
    source: str | None = option(
        None, "the model that the runs started from", metavar="SPEC", shown="as the run records it"
    )
    data: str | None = option(
        None,
        "dataset with the held-out and test images",
        metavar="SPEC",
        shown="as the run records it",
    )
    workers: int | None = option(
        None, "number of processes that read images", ge=0, shown="by the number of cores"
    )

    @model_validator(mode="after")
    def _check_greedy(self) -> MergeConfig:
        if self.greedy and self.alpha == "auto":
            raise ValueError("`greedy` and `alpha=auto` exclude each other: both choose by the "
                             "same held-out images")  # fmt: skip
        return self
