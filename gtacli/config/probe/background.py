"""The config of `gta probe background`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gtacli.config.common import FilePath
from gtacli.config.probe.common import ProbeConfig


class BackgroundProbeConfig(ProbeConfig):
    """Options of `gta probe background`."""

    variants: FilePath | None = Field(
        default=None,
        description="ImageNet-9 as published: original/, mixed_same/, mixed_rand/, ... of class "
        "folders",
        json_schema_extra={"metavar": "DIR"},
    )
    mapping: FilePath | None = Field(
        default=None,
        description="JSON file with the class of each of the classifier's outputs "
        "(in_to_in9.json); not needed for a classifier of the images' own classes",
        json_schema_extra={"metavar": "FILE"},
    )
    data: str | None = Field(
        default=None,
        description="instead of `variants`, draw them from a dataset's test images (or training "
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
        description="source of other backgrounds for the images of `data`: the images themselves, "
        "or the training images",
    )
