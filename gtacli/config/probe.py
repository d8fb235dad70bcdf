"""The configs of `gta probe`: what a network has learnt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gtacli.config.common import CommonConfig, FilePath, ImageSize, read_numbers


class AttentionProbeConfig(CommonConfig):
    """Whose attention is measured, on which images."""

    model: str | None = Field(
        default=None,
        description="the ViT whose attention is measured: a timm name, hf-hub:..., a run folder, "
        "ARCH@FILE, or a name of the gta.models registry",
        json_schema_extra={"metavar": "SPEC"},
    )
    compare: list[str] = Field(
        default_factory=list,
        description="further models on the same images; how far each one's attention is from "
        "--model's is measured too: all words up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
    data: str | None = Field(
        default=None,
        description="a data set's images, after those that are named, with its own masks where it "
        "has some: demo, voc/2012:ROOT, a csv with a column mask, a folder, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    masks: FilePath | None = Field(
        default=None,
        description="folder of the objects' masks, named like the images",
        json_schema_extra={"metavar": "DIR", "default": "the data's own, else TokenCut's"},
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="what all models see of every image, in pixels",
        json_schema_extra={"metavar": "N|HxW", "default": "--model's own"},
    )
    layer: Annotated[Literal["all", "last"] | tuple[int, ...], BeforeValidator(read_numbers)] = (
        Field(
            default="all",
            description="blocks, from the end if negative, as in -1 or 0,5,11",
            json_schema_extra={"metavar": "all|last|LIST"},
        )
    )
    discovery: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="TokenCut's options, as in --set discovery.tokencut.layer=-6",
        json_schema_extra={"flag": False},
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that read images; 0: none",
        json_schema_extra={"default": "by the machine"},
    )
