"""The config of `gta export`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from gtacli.config.common import (
    CommandConfig,
    FilePath,
    ImageSize,
    RegisterSetting,
    read_words,
    registers_option,
)
from gtacli.config.option import option

Output = Literal["probabilities", "attention", "box", "embedding"]
OUTPUTS: tuple[Output, ...] = ("probabilities", "attention", "box", "embedding")


def _each_once(outputs: tuple[Output, ...] | None) -> tuple[Output, ...] | None:
    if outputs is not None and (not outputs or len({*outputs}) != len(outputs)):
        raise ValueError("must name at least one output, and each once")
    return outputs


class ExportConfig(CommandConfig):
    """Options of the export of a trained model."""

    format: str | None = option(
        None,
        "onnx; pt2 (torch.export); safetensors; timm-hub, a folder for timm and the Hugging Face "
        "hub; or that of a plug-in (`gta plugins list`)",
        metavar="NAME",
        shown="by the suffix of `out`, else onnx",
    )
    outputs: Annotated[
        tuple[Output, ...] | None, BeforeValidator(read_words), AfterValidator(_each_once)
    ] = option(
        None,
        "outputs of the graph, in this order: probabilities, attention (of the last block's CLS "
        "token), box (around that attention), embedding",
        metavar="NAME,...",
        shown="probabilities,attention, as far as the model has them",
    )
    with_preprocessing: bool = option(
        False,
        "let the graph take uint8 images of any size, and resize, crop and normalize them",
        switch=True,
    )
    heads: Literal["max", "mean"] = option("max", "attention: maximum or mean over the heads")
    image_size: ImageSize | None = option(
        None, "input size of the network, in pixels", metavar="N|HxW", shown="the model's"
    )
    registers: RegisterSetting = registers_option("the model's")
    license: str | None = option(
        None,
        "license of the weights, for the model card of timm-hub: an identifier such as apache-2.0",
        metavar="NAME",
        shown="not recorded",
    )
    check: list[str] = option(
        list,
        "images on which the file is compared with the model, at least one",
        metavar="IMAGE...",
        multiple=True,
        variadic=True,
        shown="images of the run's dataset if it is here, else drawn ones",
    )
    out: FilePath | None = option(
        None,
        "the file, or for timm-hub the folder; an existing one is only replaced with `overwrite`",
        shown="runs/export-DATE-TIME/model.SUFFIX",
        metavar="FILE|DIR",
    )
    overwrite: bool = option(False, "replace an existing file")
