"""The config of `gta probe background`."""

from __future__ import annotations

from typing import Literal

from gtacli.config.common import FilePath, columns_option
from gtacli.config.option import option
from gtacli.config.probe.common import ProbeConfig


class BackgroundProbeConfig(ProbeConfig):
    """Options of `gta probe background`."""

    variants: FilePath | None = option(
        None,
        "ImageNet-9 as published: original/, mixed_same/, mixed_rand/, ... of class folders",
        metavar="DIR",
    )
    mapping: FilePath | None = option(
        None,
        "JSON file with the class of each of the classifier's outputs (in_to_in9.json); not "
        "needed for a classifier of the images' own classes",
        metavar="FILE",
    )
    data: str | None = option(
        None,
        "instead of `variants`, draw them from a dataset's test images (or training images "
        "if it has no others): demo, voc/2012:ROOT, a csv with a column mask, a folder, ...",
        metavar="SPEC",
    )
    columns: str | None = columns_option()
    masks: FilePath | None = option(
        None,
        "folder of the objects' masks, named like the images, or a JSON file in COCO's format",
        metavar="DIR",
        shown="the data's own",
    )
    backgrounds: Literal["own", "train"] = option(
        "own",
        "source of other backgrounds for the images of `data`: the images themselves, or the "
        "training images",
    )
