"""The config of `gta probe attention`."""

from __future__ import annotations

from typing import Any

from gtacli.config.common import (
    CommonConfig,
    FilePath,
    ImageSize,
    RegisterSetting,
    columns_option,
    registers_option,
)
from gtacli.config.option import option
from gtacli.config.probe.common import BlockNumbers


class AttentionProbeConfig(CommonConfig):
    """Options of `gta probe attention`."""

    model: str | None = option(
        None,
        "the ViT to probe: a timm name, hf-hub:..., a run folder, ARCH@FILE, or a name of "
        "the gta.models registry",
        metavar="SPEC",
    )
    compare: list[str] = option(
        list,
        "further models on the same images, with their attention's distance from that of "
        "`model`: all words up to the next option",
        metavar="SPEC...",
        multiple=True,
        variadic=True,
    )
    data: str | None = option(
        None,
        "a dataset whose images follow the named ones, with its own masks if it has some: "
        "demo, voc/2012:ROOT, a csv with a column mask, a folder, ...",
        metavar="SPEC",
    )
    columns: str | None = columns_option()
    masks: FilePath | None = option(
        None,
        "folder of the objects' masks, named like the images, or a JSON file in COCO's format",
        metavar="DIR",
        shown="the data's own, else TokenCut's",
    )
    image_size: ImageSize | None = option(
        None, "input size of all models, in pixels", metavar="N|HxW", shown="that of `model`"
    )
    registers: RegisterSetting = registers_option("the model's")
    layer: BlockNumbers = option(
        "all", "blocks, negative ones from the end, as in -1 or 0,5,11", metavar="all|last|LIST"
    )
    discovery: dict[str, dict[str, Any]] = option(
        dict, "TokenCut's options, as in `set` discovery.tokencut.layer=-6", flag=False
    )
    workers: int | None = option(
        None, "threads that read images; 0: none", ge=0, shown="one per core"
    )
