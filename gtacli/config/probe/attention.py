"""The config of `gta probe attention`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from gtacli.config.common import (
    CommonConfig,
    FilePath,
    ImageSize,
    RegisterSetting,
    columns_option,
    read_words,
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
    faithfulness: bool = option(
        False,
        "measure which kind of map shows what the model's answer rests on, by insertion and "
        "deletion of patches; needs no masks",
    )
    kinds: Annotated[tuple[str, ...] | None, BeforeValidator(read_words)] = option(
        None,
        "faithfulness: kinds of maps, as in `gta attention-map`",
        metavar="LIST",
        shown="those that a model can have, and back-ends that show a class",
    )
    fill: Literal["mean", "blur"] = option(
        "mean",
        "faithfulness: what replaces removed patches: the image's mean color, or the image blurred "
        "over the size of a patch",
    )
    steps: int = option(
        10, "faithfulness: number of steps from no patch to all; time grows with it", ge=2
    )
    discovery: dict[str, dict[str, Any]] = option(
        dict, "options of back-ends, as in `set` discovery.tokencut.layer=-6", flag=False
    )
    workers: int | None = option(
        None, "threads that read images; 0: none", ge=0, shown="one per core"
    )

    @model_validator(mode="after")
    def _check_faithfulness(self) -> AttentionProbeConfig:
        given = self.model_fields_set
        of_one, of_other = ("kinds", "fill", "steps"), ("masks", "layer")
        for key in of_other if self.faithfulness else of_one:
            default = type(self).model_fields[key].default
            if key in given and getattr(self, key) != default:
                need = "not with" if self.faithfulness else "is for"
                raise ValueError(f"`{key}` {need} `faithfulness`")
        return self
