"""The config of `gta attention-map`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from gtacli.config.common import CommonConfig, FilePath, ImageSize, read_numbers


class AttentionMapConfig(CommonConfig):
    """Which maps of which models, and how they are drawn."""

    model: str | None = Field(
        default=None,
        description="the ViT that looks: a timm name, hf-hub:..., a run folder, ARCH@FILE, or a "
        "name of the gta.models registry",
        json_schema_extra={"metavar": "SPEC"},
    )
    compare: list[str] = Field(
        default_factory=list,
        description="further models on the same images, each in a folder of its own: all words "
        "up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
    kind: str = Field(
        default="cls",
        description="cls: attention of the CLS token; rollout: attention through all blocks up to "
        "--layer; or a discovery back-end: tokencut, gradcam, dino, ... (`gta plugins list`)",
        json_schema_extra={"metavar": "NAME", "choices": ["cls", "rollout"]},
    )
    layer: Annotated[
        Literal["all", "last", "auto"] | tuple[int, ...] | None, BeforeValidator(read_numbers)
    ] = Field(
        default=None,
        description="blocks, from the end if negative, as in -1 or 0,5,11",
        json_schema_extra={"metavar": "N|all|LIST", "default": "-1, or the back-end's own"},
    )
    heads: Annotated[
        Literal["max", "mean", "all"] | tuple[int, ...] | None, BeforeValidator(read_numbers)
    ] = Field(
        default=None,
        description="maximum or mean over the heads, or each by itself",
        json_schema_extra={"metavar": "max|mean|all|LIST", "default": "max; of rollout mean"},
    )
    style: Literal["overlay", "heat", "mask", "raw"] = Field(
        default="overlay",
        description="the map over its image, the map in colours, a black and white mask, or the "
        "values on the patch grid (.npy)",
    )
    mass: float = Field(
        default=0.6,
        gt=0,
        lt=1,
        description="share of the attention that a mask holds; back-ends may have masks of their "
        "own",
    )
    colormap: Literal["plasma", "viridis", "cividis", "turbo", "red"] = Field(
        default="plasma",
        description="of overlay and heat; red: as in GTA's figures",
    )
    clip: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="quantile of a map that has the strongest colour: with 0.97 a few patches of "
        "extreme attention do not hide the rest",
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="N: about as many patches as an N x N image has, at each image's own aspect "
        "ratio; HxW: every image is stretched to that",
        json_schema_extra={"metavar": "N|HxW", "default": "the model's"},
    )
    stretch: bool = Field(
        default=False,
        description="bring every image to the model's size whatever its shape, as DINO's code does",
    )
    target_class: str | None = Field(
        default=None,
        description="gradcam: the class, by number or name",
        json_schema_extra={"metavar": "CLASS", "default": "each predicted one"},
    )
    sheet: FilePath | None = Field(
        default=None,
        description="one picture of the first images and all maps side by side, one colour scale "
        "a row",
        json_schema_extra={"metavar": "FILE.png"},
    )
    sheet_rows: int = Field(default=12, ge=1, le=200, description="images in the sheet")
    discovery: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="a back-end's options, as in --set discovery.tokencut.tau=0.3",
        json_schema_extra={"flag": False},
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that read, look and draw; 0: none",
        json_schema_extra={"default": "one a core, at most 16"},
    )

    @field_validator("sheet")
    @classmethod
    def _is_picture(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ValueError(f"must end in .png, .jpg or .jpeg, got '{value}'")
        return value

    @model_validator(mode="after")
    def _class_of_gradcam(self) -> AttentionMapConfig:
        if self.target_class is not None and self.kind != "gradcam":
            raise ValueError(f"target_class: only --kind gradcam has one, not {self.kind}")
        return self

    @property
    def stretched(self) -> bool:
        """Whether images lose their own aspect ratio."""
        size = self.image_size
        return self.stretch or (size is not None and size[0] != size[1])

    @property
    def backend_options(self) -> dict[str, Any]:
        """Options of the discovery back-end `kind`, as far as they are given."""
        given = dict(self.discovery.get(self.kind, {}))
        if isinstance(self.layer, tuple) and len(self.layer) == 1:
            given["layer"] = self.layer[0]
        elif self.layer == "last":
            given["layer"] = -1
        elif self.layer is not None:
            given["layer"] = self.layer
        return given
