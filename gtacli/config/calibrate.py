"""The config of `gta calibrate`."""

from __future__ import annotations

from gtacli.config.common import DeviceConfig, RecordConfig
from gtacli.config.option import option


class CalibrateConfig(RecordConfig, DeviceConfig):
    """Options of the calibration of a run."""

    data: str | None = option(
        None,
        "dataset with the held-out and test images",
        metavar="SPEC",
        shown="as the run records it",
    )
    accuracy: float = option(
        0.95,
        "fraction of right predictions that `unsure=auto` of gta predict is to keep to, among "
        "those it is sure of",
        gt=0,
        le=1,
    )
    workers: int | None = option(
        None, "number of processes that read images", ge=0, shown="by the number of cores"
    )
