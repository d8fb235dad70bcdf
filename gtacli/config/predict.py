"""The config of `gta predict`."""

from __future__ import annotations

from pydantic import Field

from gtacli.config.common import DeviceConfig


class PredictConfig(DeviceConfig):
    """Classes of images, by a fine-tuned network."""

    model: str | None = Field(
        default=None,
        description="a run folder, or anything else that --model of finetune takes",
        json_schema_extra={"metavar": "SPEC"},
    )
    top: int = Field(default=5, ge=1, description="how many classes to name for each image")
