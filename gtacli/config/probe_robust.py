"""The config of `gta probe robust`."""

from __future__ import annotations

from pydantic import Field

from gtacli.config.common import FilePath
from gtacli.config.probe import ProbeConfig


class RobustProbeConfig(ProbeConfig):
    """Whose answers are measured, on which images that are unlike ImageNet's."""

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
        description="ImageNet-R: 200 folders of synsets, whose outputs alone compete",
        json_schema_extra={"metavar": "DIR"},
    )
    imagenet_a: FilePath | None = Field(
        default=None, description="ImageNet-A: likewise", json_schema_extra={"metavar": "DIR"}
    )
    cue_conflict: FilePath | None = Field(
        default=None,
        description="images of one thing's shape and another's texture, named so "
        "(cat1-elephant2.png), for the shape bias",
        json_schema_extra={"metavar": "DIR"},
    )
