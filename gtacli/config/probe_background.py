"""The config of `gta probe background`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gtacli.config.common import CommonConfig, FilePath, ImageSize


class BackgroundProbeConfig(CommonConfig):
    """Whose answers are measured, on which images, and where other backgrounds come from."""

    model: str | None = Field(
        default=None,
        description="the ViT whose answers are measured: a timm name, hf-hub:..., a run folder, "
        "ARCH@FILE, or a name of the gta.models registry",
        json_schema_extra={"metavar": "SPEC"},
    )
    compare: list[str] = Field(
        default_factory=list,
        description="further models on the same images, each figure with a paired test against "
        "--model's: all words up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
    variants: FilePath | None = Field(
        default=None,
        description="ImageNet-9 as published: original/, mixed_same/, mixed_rand/, ... of class "
        "folders",
        json_schema_extra={"metavar": "DIR"},
    )
    mapping: FilePath | None = Field(
        default=None,
        description="which class each of the classifier's outputs is (in_to_in9.json); not needed "
        "by a classifier for the images' own classes",
        json_schema_extra={"metavar": "FILE"},
    )
    data: str | None = Field(
        default=None,
        description="instead of --variants, draw them of a data set's test images (its training "
        "images if it has no others): demo, voc/2012:ROOT, a csv with a column mask, a folder, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    masks: FilePath | None = Field(
        default=None,
        description="folder of the objects' masks, named like the images",
        json_schema_extra={"metavar": "DIR", "default": "the data's own"},
    )
    backgrounds: Literal["own", "train"] = Field(
        default="own",
        description="where the data's images get other backgrounds from: each other, or the "
        "training images",
    )
    out: FilePath | None = Field(
        default=None,
        description="folder to write; new, empty, or an earlier probe's",
        json_schema_extra={"default": "runs/probe-NAME-DATE-TIME", "metavar": "DIR"},
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="what every model sees, in pixels",
        json_schema_extra={"metavar": "N|HxW", "default": "each model's own"},
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that read and draw images; 0: none",
        json_schema_extra={"default": "by the machine"},
    )
