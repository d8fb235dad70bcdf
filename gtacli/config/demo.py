"""The config of `gta demo`."""

from __future__ import annotations

from gtacli.config.common import CommonConfig
from gtacli.config.option import option


class DemoConfig(CommonConfig):
    """Number and length of the runs that compare plain fine-tuning with GTA."""

    seeds: int = option(3, "runs of each method; their seeds count from `seed`", ge=1)
    sampling_rate: float = option(
        15.0, "percentage of each class's training images to keep (rounded up)", gt=0, le=100
    )
    epochs: int = option(40, "passes over the training images", ge=1)
