"""The config of `gta probe robust`."""

from __future__ import annotations

from pydantic import Field

from gtacli.config.common import CommonConfig, FilePath, ImageSize


class RobustProbeConfig(CommonConfig):
    """Whose answers are measured, on which images that are unlike ImageNet's."""

    model: str | None = Field(
        default=None,
        description="a classifier of ImageNet's classes: a timm name, hf-hub:..., ARCH@FILE, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    compare: list[str] = Field(
        default_factory=list,
        description="further models on the same images, each tested against --model image by "
        "image: all words up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
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
    image_size: ImageSize | None = Field(
        default=None,
        description="what every model sees, in pixels",
        json_schema_extra={"metavar": "N|HxW", "default": "each model's own"},
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that read images; 0: none",
        json_schema_extra={"default": "by the machine"},
    )
    out: FilePath | None = Field(
        default=None,
        description="folder to write; new, empty, or an earlier probe's",
        json_schema_extra={"default": "runs/probe-NAME-DATE-TIME", "metavar": "DIR"},
    )
