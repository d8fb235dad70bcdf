"""The config of `gta pretrain`."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from gtacli.config.base import StrictModel
from gtacli.config.common import FilePath, ImageSize
from gtacli.config.parts import DISCOVERY_OPTIONS, built_in
from gtacli.config.training import TrainingConfig
from gtacli.registry import DISCOVERY

# exp(1 / tau) is no fp32 number below this.
LEAST_TAU = 1 / math.log(3.4e38)


def _read_tau(value: object) -> object:
    """A number, `START:END`, or a list of the two."""
    if isinstance(value, str):
        parts = value.split(":")
        if len(parts) > 2 or not all(
            re.fullmatch(r"\s*\d*\.?\d+(e[+-]?\d+)?\s*", p) for p in parts
        ):
            raise ValueError(f"must be a number or START:END, got '{value}'")
        value = [float(part) for part in parts]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [float(value)]
    if isinstance(value, (list, tuple)) and len(value) in (1, 2):
        value = tuple(float(v) if isinstance(v, int) else v for v in (value[0], value[-1]))
    return value


Tau = Annotated[
    tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]],
    BeforeValidator(_read_tau, json_schema_input_type=str | float),
    PlainSerializer(lambda t: t[0] if t[0] == t[1] else f"{t[0]!r}:{t[1]!r}"),
]


class PretrainConfig(TrainingConfig):
    """How a ViT learns to fill in images without labels, led to their objects by maps."""

    parts_key: ClassVar[str] = "discovery"

    model: str | None = Field(
        default=None,
        description="the network, as a timm name, a run folder, ...; only its architecture counts, "
        "its weights start random",
        json_schema_extra={"metavar": "SPEC"},
    )
    init: str | None = Field(
        default=None,
        description="start from these weights instead (a file, or specified like --model)",
        json_schema_extra={"metavar": "SPEC|FILE", "default": "random"},
    )
    patch_size: int | None = Field(
        default=None,
        ge=1,
        description="side of the network's patches in pixels",
        json_schema_extra={"default": "the model's"},
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="what the network sees, in pixels: 224, or HEIGHTxWIDTH",
        json_schema_extra={"metavar": "N|HxW", "default": "the model's"},
    )
    data: str | None = Field(
        default=None,
        description="the images: a data set's training part, specified as for gta finetune, or a "
        "folder of images without classes",
        json_schema_extra={"metavar": "SPEC"},
    )
    method: Literal["mae", "crossmae"] = Field(
        default="mae",
        description="crossmae: the decoder's queries attend to visible patches alone, and only a "
        "part of the masked ones is predicted: two or three times as fast",
    )
    guide: str | None = Field(
        default=None,
        description="what finds the objects whose patches weigh more: none, tokencut, dino, "
        "gradcam, or another of `gta plugins list`",
        json_schema_extra={
            "metavar": "NAME",
            "default": "as --maps has it, else tokencut with --teacher, else none",
            "choices": ["none"],
        },
    )
    maps: FilePath | None = Field(
        default=None,
        description="maps that gta discover has kept, so that guidance costs nothing",
        json_schema_extra={"metavar": "CACHE"},
    )
    teacher: str | None = Field(
        default=None,
        description="without --maps: the pre-trained ViT that finds objects in every view anew",
        json_schema_extra={"metavar": "SPEC"},
    )
    teacher_size: ImageSize | None = Field(
        default=None,
        description="what the teacher sees of each view, in pixels",
        json_schema_extra={"metavar": "N|HxW", "default": "its own"},
    )
    discovery: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="options of what finds the objects, as in --set discovery.tokencut.layer=-6",
        json_schema_extra={"flag": False},
    )
    shuffle_maps: bool = Field(
        default=False,
        description="control: every map's values on other patches, anew in every view",
        json_schema_extra={"switch": True},
    )
    tau: Tau = Field(
        default=(1.0, 0.5),
        description="weights are gamma exp(map / tau): a number, or START:END of a half-cycle "
        "cosine; the smaller, the more the object counts",
        json_schema_extra={"metavar": "X|START:END", "default": "1.0:0.5"},
    )
    gamma: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto", description="auto: the mean weight of a batch is 1"
    )
    mask: Literal["random", "attention", "inverse"] = Field(
        default="random",
        description="which patches are masked; attention: those of the highest map values first, "
        "inverse: of the lowest",
    )
    mask_ratio: float = Field(
        default=0.75, gt=0, lt=1, description="share of the patches that the encoder does not see"
    )
    predict_ratio: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="crossmae: share of all patches that are predicted",
        json_schema_extra={"default": 0.25},
    )
    norm_pix: bool = Field(
        default=True, description="predict each patch by its own mean and variance"
    )
    decoder_dim: int = Field(default=512, ge=4, description="width of the decoder")
    decoder_depth: int = Field(default=8, ge=1, description="blocks of the decoder")
    decoder_heads: int = Field(default=16, ge=1, description="heads of the decoder")
    epochs: int = Field(default=100, ge=1, description="passes over the images")
    warmup: float | None = Field(
        default=None,
        ge=0,
        description="epochs of rising learning rate",
        json_schema_extra={"metavar": "X", "default": "a twentieth of the epochs"},
    )
    blr: float = Field(
        default=1.5e-4, gt=0, description="learning rate for 256 images a step; it grows with them"
    )
    lr: float | None = Field(
        default=None,
        gt=0,
        description="learning rate",
        json_schema_extra={"default": "blr x images a step / 256"},
    )
    weight_decay: float = Field(default=0.05, ge=0, description="of AdamW")
    crop_scale: float = Field(
        default=0.2, gt=0, le=1, description="smallest share of an image that a random crop shows"
    )
    flip: bool = Field(default=True, description="mirror half of the images")
    repeats: int = Field(
        default=1,
        ge=1,
        description="views of each image in an epoch; it is read once for all of them",
    )
    knn_every: int | None = Field(
        default=None,
        ge=0,
        description="epochs between two classifications of held-out images by their nearest "
        "neighbours, where the data has labels; 0: never",
        json_schema_extra={"default": "ten times in all"},
    )
    previews_every: int | None = Field(
        default=None,
        ge=0,
        description="epochs between two pictures of reconstructions; 0: never",
        json_schema_extra={"default": "ten times in all"},
    )
    batch_size: int = Field(default=64, ge=1, description="images a step, shared by all processes")

    @classmethod
    def part_options(cls, name: str) -> type[StrictModel] | None:
        return built_in(DISCOVERY, name, DISCOVERY_OPTIONS)

    @property
    def backend(self) -> str:
        """What is asked to find objects; "" where the maps say it themselves, "none" for nobody."""
        if self.guide is not None:
            return self.guide
        return "" if self.maps is not None else "tokencut" if self.teacher is not None else "none"

    @property
    def guided(self) -> bool:
        """Whether maps weigh the error."""
        return self.backend != "none"

    def due(self, every: int | None, epoch: int) -> bool:
        """Whether what is done `every` so many epochs is due after this one; always after the
        last."""
        every = -(-self.epochs // 10) if every is None else every
        return every > 0 and ((epoch + 1) % every == 0 or epoch + 1 == self.epochs)

    @model_validator(mode="after")
    def _fitting(self) -> PretrainConfig:
        if self.maps is not None and self.teacher is not None:
            raise ValueError(
                "--maps and --teacher exclude each other: maps are kept, or found anew"
            )
        has_maps = self.maps is not None or self.teacher is not None
        if self.guided and not has_maps:
            raise ValueError(
                f"--guide {self.guide} needs maps: --maps CACHE of gta discover, or --teacher SPEC "
                "to find them"
            )
        if self.mask != "random" and not has_maps:
            raise ValueError(f"--mask {self.mask} needs maps: --maps CACHE, or --teacher SPEC")
        if self.teacher is not None and not self.guided and self.mask == "random":
            raise ValueError("--teacher: with --guide none it has nothing to do")
        if self.shuffle_maps and not self.guided:
            raise ValueError("--shuffle-maps: without a guide there is nothing to shuffle")
        if self.teacher_size is not None and self.teacher is None:
            raise ValueError("--teacher-size: there is no teacher")
        if self.predict_ratio is not None:
            if self.method != "crossmae":
                raise ValueError("--predict-ratio is crossmae's; mae predicts all masked patches")
            if self.predict_ratio > self.mask_ratio:
                raise ValueError("--predict-ratio: no more than is masked can be predicted")
        if self.gamma != "auto" and min(self.tau) < LEAST_TAU:
            raise ValueError(
                f"--tau {min(self.tau):g}: exp(1 / tau) overflows with a fixed --gamma; leave "
                f"gamma auto, or tau at {math.ceil(1e3 * LEAST_TAU) / 1e3:g} and more"
            )
        return self
