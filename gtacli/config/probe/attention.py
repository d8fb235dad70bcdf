"""The config of `gta probe attention`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from gtacli.config.common import CommonConfig, FilePath, ImageSize
from gtacli.config.probe.common import BlockNumbers


class AttentionProbeConfig(CommonConfig):
    """Options of `gta probe attention`."""

    model: str | None = Field(
        default=None,
        description="the ViT to probe: a timm name, hf-hub:..., a run folder, ARCH@FILE, or a name "
        "of the gta.models registry",
        json_schema_extra={"metavar": "SPEC"},
    )
    compare: list[str] = Field(
        default_factory=list,
        description="further models on the same images, with their attention's distance from that "
        "of `model`: all words up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
    data: str | None = Field(
        default=None,
        description="a dataset whose images follow the named ones, with its own masks if it has "
        "some: demo, voc/2012:ROOT, a csv with a column mask, a folder, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    masks: FilePath | None = Field(
        default=None,
        description="folder of the objects' masks, named like the images",
        json_schema_extra={"metavar": "DIR", "default": "the data's own, else TokenCut's"},
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="input size of all models, in pixels",
        json_schema_extra={"metavar": "N|HxW", "default": "that of `model`"},
    )
    layer: BlockNumbers = Field(
        default="all",
        description="blocks, negative ones from the end, as in -1 or 0,5,11",
        json_schema_extra={"metavar": "all|last|LIST"},
    )
    discovery: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="TokenCut's options, as in `set` discovery.tokencut.layer=-6",
        json_schema_extra={"flag": False},
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that read images; 0: none",
        json_schema_extra={"default": "one per core"},
    )
