"""The card of an exported file: what a program needs to know beside the graph, as JSON.

It comes with files of strangers, so it is data of known types and sizes. Nothing here imports
torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from gtacli.config.base import StrictModel, read_content
from gtacli.config.export import OUTPUTS, Output
from gtacli.errors import GtaError
from gtacli.models.card import Level, Scale, Side
from gtacli.runtime.atomic import to_json
from gtacli.runtime.strict_json import parse_json

KEY = "gta"
"""The name of the card in a file's metadata."""
LARGEST = 1 << 24
"""Bytes of a card: names of 100,000 classes have room."""


class ExportCard(StrictModel):
    """The description of an exported model.

    Attributes:
        layout: version of this description.
        outputs: names of the graph's outputs, in order.
        pixels: whether the graph takes uint8 RGB (B, 3, H, W) of any size, and resizes, crops and
            normalizes it itself; else normalized fp32.
        image_size: (h, w) of the network's input, in pixels.
        any_size: whether the graph takes other sizes, too: multiples of the patch size.
        mean, std: of the normalization, per channel, for values in 0..1.
        interpolation, crop_pct: the image is resized to cover image_size / crop_pct, and its
            center of image_size cut out.
        classes: names, by number.
        multi_label: whether an image has any number of them: the probability of each is a sigmoid
            of its own.
        temperature: by which the logits are divided in the graph.
        threshold: probability from which on a prediction is sure; None: not chosen.
        label_threshold: probability above which a label is predicted, by a model for any number;
            None: not chosen.
        heads: how the attention of the last block's heads is reduced to one map.
        mass: fraction of the attention on patches that the mask in the box holds.
        features: the embedding: the last block's CLS token or mean of the patches, normalized.
        registers: number of test-time registers.
        architecture: timm's name.
        spec: the model that was exported.
        gta: version that exported it.
    """

    model_config = ConfigDict(extra="ignore")

    layout: Literal[1] = 1
    outputs: tuple[Output, ...] = Field(min_length=1, max_length=len(OUTPUTS))
    pixels: bool = False
    image_size: tuple[Side, Side]
    any_size: bool = False
    mean: tuple[Level, Level, Level]
    std: tuple[Scale, Scale, Scale]
    interpolation: Literal["bicubic", "bilinear", "nearest"]
    crop_pct: float = Field(gt=0, le=1)
    classes: tuple[Annotated[str, Field(max_length=10_000)], ...] = ()
    multi_label: bool = False
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    threshold: float | None = Field(default=None, ge=0, le=1)
    label_threshold: float | None = Field(default=None, ge=0, lt=1)
    heads: Literal["max", "mean"] = "max"
    mass: float = Field(default=0.6, gt=0, le=1)
    features: Literal["cls", "mean"] = "cls"
    registers: int = Field(default=0, ge=0)
    architecture: str = ""
    spec: str = ""
    gta: str = ""

    def to_json(self) -> str:
        """Return the card as JSON; credentials in addresses are masked."""
        return to_json(self.model_dump())


def read_export_card(text: str, where: str) -> ExportCard:
    """Return the card in a file's metadata. Raises GtaError that names the file and the entry."""
    try:
        found: ExportCard = read_content(ExportCard, parse_json(text), as_json=True)
    except ValueError as error:
        raise GtaError(f"{where}: its card: {error}") from None
    if len({*found.outputs}) != len(found.outputs):
        raise GtaError(f"{where}: its card names an output twice")
    return found
