"""The config of `gta demo`."""

from __future__ import annotations

from pydantic import Field

from gtacli.config.common import CommonConfig


class DemoConfig(CommonConfig):
    """How often plain fine-tuning and GTA are run on the built-in set, and how long."""

    seeds: int = Field(
        default=3, ge=1, description="runs of each method, with the seeds from --seed on"
    )
    sampling_rate: float = Field(
        default=15.0,
        gt=0,
        le=100,
        description="per cent of each class's training images that are kept (rounded up)",
    )
    epochs: int = Field(default=40, ge=1, description="passes over the training images")
