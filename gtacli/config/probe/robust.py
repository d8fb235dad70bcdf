"""The config of `gta probe robust`."""

from __future__ import annotations

from pydantic import Field

from gtacli.config.common import FilePath
from gtacli.config.probe.common import ProbeConfig


class RobustProbeConfig(ProbeConfig):
    """Options of `gta probe robust`."""

    imagenet: FilePath | None = Field(
        default=None,
        description="ImageNet's validation images in folders of their synsets, for comparison",
        json_schema_extra={"metavar": "DIR"},
    )
    imagenet_v2: FilePath | None = Field(
        default=None,
        description="ImageNet-V2: folders 0 to 999",
        json_schema_extra={"metavar": "DIR"},
    )
    sketch: FilePath | None = Field(
        default=None,
        description="ImageNet-Sketch: folders of synsets",
        json_schema_extra={"metavar": "DIR"},
    )
    imagenet_r: FilePath | None = Field(
        default=None,
        description="ImageNet-R: 200 folders of synsets; predictions are restricted to them",
        json_schema_extra={"metavar": "DIR"},
    )
    imagenet_a: FilePath | None = Field(
        default=None,
        description="ImageNet-A: 200 folders of synsets; predictions are restricted to them",
        json_schema_extra={"metavar": "DIR"},
    )
    cue_conflict: FilePath | None = Field(
        default=None,
        description="images with the shape of one class and the texture of another, named after "
        "them (cat1-elephant2.png), for the shape bias",
        json_schema_extra={"metavar": "DIR"},
    )
