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

# Below this exp(1 / tau) overflows in fp32.
LEAST_TAU = 1 / math.log(3.4e38)


def _read_tau(value: object) -> object:
    """Return the start and end of a number, `START:END`, or a list of the two."""
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
    """Options of the pre-training of a ViT as a masked autoencoder, guided by object maps."""

    parts_key: ClassVar[str] = "discovery"

    model: str | None = Field(
        default=None,
        description="model whose architecture is trained from random weights: a timm name, a run "
        "folder, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    init: str | None = Field(
        default=None,
        description="start from these weights, a file or a model specified like `model`",
        json_schema_extra={"metavar": "SPEC|FILE", "default": "random"},
    )
    patch_size: int | None = Field(
        default=None,
        ge=1,
        description="side of the model's patches in pixels",
        json_schema_extra={"default": "the model's"},
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="image size of the model in pixels: 224, or HEIGHTxWIDTH",
        json_schema_extra={"metavar": "N|HxW", "default": "the model's"},
    )
    data: str | None = Field(
        default=None,
        description="dataset whose training split is used, specified as for `gta finetune`, or a "
        "folder of images without classes",
        json_schema_extra={"metavar": "SPEC"},
    )
    method: Literal["mae", "crossmae"] = Field(
        default="mae",
        description="crossmae: the decoder attends to visible patches only and predicts a part of "
        "the masked ones, which is two to three times as fast as mae",
    )
    guide: str | None = Field(
        default=None,
        description="method that finds the objects, whose patches get larger weights in the loss: "
        "none, tokencut, dino, gradcam, or a plug-in's (`gta plugins list`)",
        json_schema_extra={
            "metavar": "NAME",
            "default": "that of `maps`, else tokencut with `teacher`, else none",
            "choices": ["none"],
        },
    )
    maps: FilePath | None = Field(
        default=None,
        description="object maps that `gta discover` has cached",
        json_schema_extra={"metavar": "CACHE"},
    )
    teacher: str | None = Field(
        default=None,
        description="without `maps`: pre-trained ViT that finds the objects in every view",
        json_schema_extra={"metavar": "SPEC"},
    )
    teacher_size: ImageSize | None = Field(
        default=None,
        description="image size of the teacher in pixels",
        json_schema_extra={"metavar": "N|HxW", "default": "the teacher's"},
    )
    discovery: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="options of back-ends, by name",
        json_schema_extra={"flag": False},
    )
    shuffle_maps: bool = Field(
        default=False,
        description="control experiment: shuffle the values of every map over the patches",
        json_schema_extra={"switch": True},
    )
    tau: Tau = Field(
        default=(1.0, 0.5),
        description="temperature of the weights gamma exp(map / tau), a number, or START:END of a "
        "cosine schedule; smaller values favor the object more",
        json_schema_extra={"metavar": "X|START:END", "default": "1.0:0.5"},
    )
    gamma: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto", description="factor of the weights; auto: their mean over a batch is 1"
    )
    mask: Literal["random", "attention", "inverse"] = Field(
        default="random",
        description="masked patches: random, those with the highest map values (attention), or "
        "those with the lowest (inverse)",
    )
    mask_ratio: float = Field(
        default=0.75, gt=0, lt=1, description="fraction of the patches that is masked"
    )
    predict_ratio: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="crossmae: fraction of all patches that is predicted",
        json_schema_extra={"default": 0.25},
    )
    norm_pix: bool = Field(
        default=True, description="normalize each target patch by its own mean and variance"
    )
    decoder_dim: int = Field(default=512, ge=4, description="embedding dimension of the decoder")
    decoder_depth: int = Field(default=8, ge=1, description="number of blocks of the decoder")
    decoder_heads: int = Field(
        default=16, ge=1, description="number of attention heads of the decoder"
    )
    epochs: int = Field(default=100, ge=1, description="number of passes over the images")
    warmup: float | None = Field(
        default=None,
        ge=0,
        description="epochs of linear learning-rate warm-up",
        json_schema_extra={"metavar": "X", "default": "a twentieth of the epochs"},
    )
    blr: float = Field(
        default=1.5e-4,
        gt=0,
        description="learning rate for 256 images per step, scaled with the images per step",
    )
    lr: float | None = Field(
        default=None,
        gt=0,
        description="learning rate, instead of `blr`",
        json_schema_extra={"default": "blr x images per step / 256"},
    )
    weight_decay: float = Field(default=0.05, ge=0, description="weight decay of AdamW")
    crop_scale: float = Field(
        default=0.2, gt=0, le=1, description="smallest fraction of an image's area in a random crop"
    )
    flip: bool = Field(default=True, description="flip images horizontally with probability 0.5")
    repeats: int = Field(
        default=1,
        ge=1,
        description="augmented views of each image per epoch; the image is decoded once for all "
        "of them",
    )
    knn_every: int | None = Field(
        default=None,
        ge=0,
        description="epochs between two k-NN evaluations on held-out images, if the dataset has "
        "labels; 0: never",
        json_schema_extra={"default": "a tenth of the epochs"},
    )
    previews_every: int | None = Field(
        default=None,
        ge=0,
        description="epochs between two pictures of reconstructions; 0: never",
        json_schema_extra={"default": "a tenth of the epochs"},
    )
    batch_size: int = Field(default=64, ge=1, description="images per step, over all processes")

    @classmethod
    def part_options(cls, name: str) -> type[StrictModel] | None:
        return built_in(DISCOVERY, name, DISCOVERY_OPTIONS)

    @property
    def backend(self) -> str:
        """The back-end that finds the objects; "" for the one that made `maps`, or "none"."""
        if self.guide is not None:
            return self.guide
        return "" if self.maps is not None else "tokencut" if self.teacher is not None else "none"

    @property
    def guided(self) -> bool:
        """Return whether maps weight the loss."""
        return self.backend != "none"

    def due(self, every: int | None, epoch: int) -> bool:
        """Return whether a periodic action is due after this epoch; it always is after the last.

        Args:
            every: epochs between two actions; 0: never; None: ten actions in all.
            epoch: the epoch, from 0.
        """
        every = -(-self.epochs // 10) if every is None else every
        return every > 0 and ((epoch + 1) % every == 0 or epoch + 1 == self.epochs)

    @model_validator(mode="after")
    def _check_combination(self) -> PretrainConfig:
        has_teacher, has_maps = self.teacher is not None, self.maps is not None
        maps_or_teacher = has_maps or has_teacher
        ratio = self.predict_ratio
        problems = {
            "`maps` and `teacher` exclude each other; give one of them": has_maps and has_teacher,
            f"`guide={self.guide}` needs maps: give `maps` (of `gta discover`) or `teacher`": (
                self.guided and not maps_or_teacher
            ),
            f"`mask={self.mask}` needs maps: give `maps` (of `gta discover`) or `teacher`": (
                self.mask != "random" and not maps_or_teacher
            ),
            "`teacher` has no effect with `guide=none` and `mask=random`": (
                has_teacher and not self.guided and self.mask == "random"
            ),
            "`shuffle_maps` needs a guide: give `maps` or `teacher`": (
                self.shuffle_maps and not self.guided
            ),
            "`teacher_size` needs a `teacher`": self.teacher_size is not None and not has_teacher,
            "`predict_ratio` needs `method=crossmae`; mae predicts all masked patches": (
                ratio is not None and self.method != "crossmae"
            ),
            "`predict_ratio` must not exceed `mask_ratio`; only masked patches are predicted": (
                ratio is not None and ratio > self.mask_ratio
            ),
            f"`tau={min(self.tau):g}`: exp(1 / tau) overflows with a fixed `gamma`; use "
            f"`gamma=auto` or a tau of at least {math.ceil(1e3 * LEAST_TAU) / 1e3:g}": (
                self.gamma != "auto" and min(self.tau) < LEAST_TAU
            ),
        }
        for problem, found in problems.items():
            if found:
                raise ValueError(problem)
        return self
