"""The config of `gta segment`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gtacli.config.backend import BackendConfig
from gtacli.config.common import FilePath


class SegmentConfig(BackendConfig):
    """How objects are found in images, and what is written of them."""

    data: str | None = Field(
        default=None,
        description="a data set's images, after those that are named; its own masks or boxes are "
        "the ground truth: a folder, demo, voc/2012:ROOT, coco20k:ROOT, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    refine: Literal["none", "bilateral", "guided"] = Field(
        default="none",
        description="draw the mask's border along the image's edges: the bilateral solver, or a "
        "guided filter, which is faster",
    )
    ground_truth: FilePath | None = Field(
        default=None,
        description="folder of files named like the images, to score against: black and white "
        "masks, masks of object or class ids, or VOC's .xml with boxes",
        json_schema_extra={"metavar": "DIR"},
    )
    void: Literal["drop", "keep"] = Field(
        default="drop",
        description="pixels of value 255 in a mask of ids: not counted, or background as in ports "
        "of DINO's evaluation",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that read images, and as many that refine and write; 0: none",
        json_schema_extra={"default": "by the machine"},
    )
    overlay: bool = Field(default=False, description="also write STEM.overlay.jpg beside each mask")
