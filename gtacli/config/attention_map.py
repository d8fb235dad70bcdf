"""The config of `gta attention-map`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, field_validator, model_validator

from gtacli.config.common import (
    CommonConfig,
    FilePath,
    ImageSize,
    PartChoice,
    RegisterSetting,
    read_numbers,
    registers_option,
)
from gtacli.config.option import option
from gtacli.errors import UsageError
from gtacli.registry import DISCOVERY, MAPS, Registry

SHORT = ("layer", "heads", "target_class", "gamma")
"""Keys of options of the kind, whichever it is."""


def find_kind(name: str) -> Registry[Any]:
    """Return the registry that has a kind: that of maps, or of discovery back-ends.

    Raises UsageError for a name that neither has.
    """
    if name in MAPS.names():
        return MAPS
    DISCOVERY.origin(name)
    return DISCOVERY


class AttentionMapConfig(CommonConfig):
    """Options of the drawing of attention maps."""

    part_choices: ClassVar[tuple[PartChoice, ...]] = (
        PartChoice("kind", MAPS, "maps"),
        PartChoice("kind", DISCOVERY, "discovery"),
    )

    model: str | None = option(
        None,
        "ViT: a timm name, hf-hub:..., a run folder, ARCH@FILE, or a registered name (`gta "
        "models list`)",
        metavar="SPEC",
    )
    compare: list[str] = option(
        list,
        "more models for the same images, each with its own output folder",
        metavar="SPEC...",
        multiple=True,
        variadic=True,
    )
    kind: str = option(
        "cls",
        "cls: attention of the CLS token; rollout: attention rollout through all blocks up "
        "to `layer`; attnlrp, chefer: relevance for a class; or a discovery back-end: tokencut, "
        "gradcam, dino, ... (`gta plugins list`)",
        metavar="NAME",
    )
    layer: Annotated[
        Literal["all", "last", "auto"] | tuple[int, ...] | None, BeforeValidator(read_numbers)
    ] = option(
        None,
        "block numbers, from the end if negative, such as -1 or 0,5,11",
        metavar="N|all|LIST",
        shown="-1, or the back-end's default",
    )
    heads: Annotated[
        Literal["max", "mean", "all"] | tuple[int, ...] | None, BeforeValidator(read_numbers)
    ] = option(
        None,
        "maximum or mean over the heads, every head, or the numbers of heads",
        metavar="max|mean|all|LIST",
        shown="max; mean for rollout",
    )
    style: Literal["overlay", "heat", "mask", "raw"] = option(
        "overlay",
        "image overlaid with the map, map in colors, black and white mask, or values on the "
        "patch grid (.npy)",
    )
    mass: float = option(
        0.6,
        "fraction of the attention inside the mask; not used by back-ends with their own masks",
        gt=0,
        lt=1,
    )
    colormap: Literal["plasma", "viridis", "cividis", "turbo", "red"] = option(
        "plasma", "colors of overlay and heat; red: as in the figures of GTA's paper"
    )
    clip: float = option(
        1.0,
        "quantile of a map that gets the strongest color; 0.97 keeps a few extreme patches "
        "from hiding the others",
        gt=0,
        le=1,
    )
    image_size: ImageSize | None = option(
        None,
        "N: about the number of patches of an N x N image, at each image's own aspect ratio; "
        "HxW: every image is stretched to this size, in pixels",
        metavar="N|HxW",
        shown="the model's",
    )
    stretch: bool = option(False, "stretch every image to the model's size, as DINO's code does")
    registers: RegisterSetting = registers_option("the model's")
    target_class: str | None = option(
        None,
        "gradcam, attnlrp, chefer: number or name of the class",
        metavar="CLASS",
        shown="each image's predicted class",
    )
    gamma: float | None = option(
        None,
        "attnlrp: the gamma rule's; larger is less noisy, 0 is the plain rule",
        ge=0,
        shown=0.05,
    )
    sheet: FilePath | None = option(
        None,
        "also write one picture of the first images with all maps side by side, with one "
        "color scale per row",
        metavar="FILE.png",
    )
    sheet_rows: int = option(12, "number of images in `sheet`", ge=1, le=200)
    maps: dict[str, dict[str, Any]] = option(dict, "options of kinds of maps, by name", flag=False)
    discovery: dict[str, dict[str, Any]] = option(dict, "options of back-ends, by name", flag=False)
    resume: bool = option(
        False,
        "continue an interrupted run in `out`, given the same images and options: its results are "
        "repeated, and the other images are processed",
    )
    workers: int | None = option(
        None,
        "number of threads that read images and draw; 0: use the main thread",
        ge=0,
        shown="one per core, at most 16",
    )

    @field_validator("sheet")
    @classmethod
    def _check_suffix(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ValueError(f"must end in .png, .jpg or .jpeg, got '{value}'")
        return value

    @model_validator(mode="after")
    def _check_target_class(self) -> AttentionMapConfig:
        if self.target_class is None:
            return self
        try:
            options = find_kind(self.kind).declared_options(self.kind)
        except UsageError:  # an unknown kind, of which more is said later
            return self
        if options is not None and "target_class" not in options.model_fields:
            raise ValueError(f"`target_class` is of no use: `kind={self.kind}` shows no class")
        return self

    @property
    def stretched(self) -> bool:
        """Return whether images lose their aspect ratio."""
        size = self.image_size
        return self.stretch or (size is not None and size[0] != size[1])

    @property
    def backend_options(self) -> dict[str, Any]:
        """The given options of the discovery back-end `kind`."""
        given = dict(self.discovery.get(self.kind, {}))
        if isinstance(self.layer, tuple) and len(self.layer) == 1:
            given["layer"] = self.layer[0]
        elif self.layer == "last":
            given["layer"] = -1
        elif self.layer is not None:
            given["layer"] = self.layer
        return given
