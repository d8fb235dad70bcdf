"""The config of `gta demo`."""

from __future__ import annotations

from pydantic import Field

from gtacli.config.common import CommonConfig


class DemoConfig(CommonConfig):
    """Number and length of the runs that compare plain fine-tuning with GTA."""

    seeds: int = Field(
        default=3, ge=1, description="runs of each method; their seeds count from `seed`"
    )
    sampling_rate: float = Field(
        default=15.0,
        gt=0,
        le=100,
        description="percentage of each class's training images to keep (rounded up)",
    )
    epochs: int = Field(default=40, ge=1, description="passes over the training images")
