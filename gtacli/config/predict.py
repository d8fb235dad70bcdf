"""The config of `gta predict`."""

from __future__ import annotations

from gtacli.config.common import DeviceConfig
from gtacli.config.option import option


class PredictConfig(DeviceConfig):
    """Options of the classification of images with a fine-tuned model."""

    model: str | None = option(
        None, "run folder, or any other model with a classifier head", metavar="SPEC"
    )
    top: int = option(5, "number of classes per image, the most probable first", ge=1)
    csv: str | None = option(
        None,
        "also write a table: a row per image with image, class, probability, class2, ...; an "
        "existing file is replaced; -: on stdout instead of the lines",
        shown="off",
        metavar="FILE.csv|-",
    )
