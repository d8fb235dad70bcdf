"""The config of `gta predict`."""

from __future__ import annotations

from pydantic import Field

from gtacli.config.common import DeviceConfig


class PredictConfig(DeviceConfig):
    """Options of the classification of images with a fine-tuned model."""

    model: str | None = Field(
        default=None,
        description="run folder, or any other model with a classifier head",
        json_schema_extra={"metavar": "SPEC"},
    )
    top: int = Field(
        default=5, ge=1, description="number of classes per image, the most probable first"
    )
