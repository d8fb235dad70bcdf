"""The config of `gta probe robust`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from gtacli.config.common import FilePath
from gtacli.config.probe.common import ProbeConfig


def _folder(description: str) -> Any:
    return Field(default=None, description=description, json_schema_extra={"metavar": "DIR"})


class RobustProbeConfig(ProbeConfig):
    """Options of `gta probe robust`."""

    imagenet: FilePath | None = _folder(
        "ImageNet's validation images in folders of their synsets, for comparison"
    )
    imagenet_v2: FilePath | None = _folder("ImageNet-V2: folders 0 to 999")
    sketch: FilePath | None = _folder("ImageNet-Sketch: folders of synsets")
    imagenet_r: FilePath | None = _folder(
        "ImageNet-R: 200 folders of synsets; predictions are restricted to them"
    )
    imagenet_a: FilePath | None = _folder(
        "ImageNet-A: 200 folders of synsets; predictions are restricted to them"
    )
    cue_conflict: FilePath | None = _folder(
        "images with the shape of one class and the texture of another, named after them "
        "(cat1-elephant2.png), for the shape bias"
    )
