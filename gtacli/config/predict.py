"""The config of `gta predict`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gtacli.config.common import DeviceConfig
from gtacli.config.option import option


class PredictConfig(DeviceConfig):
    """Options of the classification of images with a fine-tuned model."""

    model: str | None = option(
        None,
        "run folder, any other model with a classifier head, or an ONNX file of gta export, which "
        "is run without torch",
        metavar="SPEC|FILE.onnx",
    )
    top: int = option(5, "number of classes per image, the most probable first", ge=1)
    tta: Literal["none", "flip", "crops"] = option(
        "none",
        "average the probabilities of several views: the image and its mirror image, or its "
        "center and four corners",
    )
    unsure: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] | None = option(
        None,
        "mark predictions whose probability is below this; auto: as gta calibrate has chosen",
        metavar="X|auto",
        shown="off",
    )
    threshold: float | None = option(
        None,
        "of a model for any number of labels: probability above which a label is predicted",
        gt=0,
        lt=1,
        shown="as gta calibrate has chosen, else 0.5",
    )
    csv: str | None = option(
        None,
        "also write a table: a row per image with image, class, probability, class2, ... (with any "
        "number of labels these first, in one cell); an existing file is replaced; -: on stdout "
        "instead of the lines",
        shown="off",
        metavar="FILE.csv|-",
    )
    parquet: str | None = option(
        None,
        "also write the same columns as Parquet; an existing file is replaced",
        shown="off",
        metavar="FILE.parquet",
    )
