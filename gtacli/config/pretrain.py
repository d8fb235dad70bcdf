"""The config of `gta pretrain`."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from gtacli.config.common import FilePath, ImageSize, PartChoice, columns_option
from gtacli.config.option import option
from gtacli.config.training import LOG, TrainingConfig, batch_size_option
from gtacli.registry import DISCOVERY

# Below this exp(1 / tau) overflows in fp32.
LEAST_TAU = 1 / math.log(3.4e38)


def _read_course(value: object) -> object:
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


_Read = BeforeValidator(_read_course, json_schema_input_type=str | float)
_Write = PlainSerializer(lambda t: t[0] if t[0] == t[1] else f"{t[0]!r}:{t[1]!r}")
_Positive: TypeAlias = Annotated[float, Field(gt=0)]
_Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Tau = Annotated[tuple[_Positive, _Positive], _Read, _Write]
Share = Annotated[tuple[_Fraction, _Fraction], _Read, _Write]


class PretrainConfig(TrainingConfig):
    """Options of the pre-training of a ViT as a masked autoencoder, guided by object maps."""

    part_choices: ClassVar[tuple[PartChoice, ...]] = (
        PartChoice("guide", DISCOVERY, "discovery"),
        LOG,
    )

    model: str | None = option(
        None,
        "model whose architecture is trained from random weights: a timm name, a run folder, ...",
        metavar="SPEC",
    )
    init: str | None = option(
        None,
        "start from these weights, a file or a model specified like `model`",
        metavar="SPEC|FILE",
        shown="random",
    )
    patch_size: int | None = option(
        None, "side of the model's patches in pixels", ge=1, shown="the model's"
    )
    image_size: ImageSize | None = option(
        None,
        "image size of the model in pixels: 224, or HEIGHTxWIDTH",
        metavar="N|HxW",
        shown="the model's",
    )
    data: str | None = option(
        None,
        "dataset whose training split is used, specified as for `gta finetune`, or a folder "
        "of images without classes",
        metavar="SPEC",
    )
    columns: str | None = columns_option()
    epoch_images: int | None = option(
        None,
        "images of an epoch; reads the shards of `data` (wds/, parquet/) as an endless stream, "
        "without an index",
        ge=1,
        le=10**15,
        shown="all, through an index",
    )
    method: Literal["mae", "crossmae"] = option(
        "mae",
        "crossmae: the decoder attends to visible patches only and predicts a part of the "
        "masked ones, which is two to three times as fast as mae",
    )
    guide: str | None = option(
        None,
        "method that finds the objects, whose patches get larger weights in the loss: none, "
        "tokencut, dino, gradcam, or a plug-in's (`gta plugins list`)",
        metavar="NAME",
        shown="that of `maps`, else tokencut with `teacher`, else none",
        choices=["none"],
    )
    maps: FilePath | None = option(
        None, "object maps that `gta discover` has cached", metavar="CACHE"
    )
    teacher: str | None = option(
        None, "without `maps`: pre-trained ViT that finds the objects in every view", metavar="SPEC"
    )
    teacher_size: ImageSize | None = option(
        None, "image size of the teacher in pixels", metavar="N|HxW", shown="the teacher's"
    )
    discovery: dict[str, dict[str, Any]] = option(dict, "options of back-ends, by name", flag=False)
    shuffle_maps: bool = option(
        False, "control experiment: shuffle the values of every map over the patches", switch=True
    )
    tau: Tau = option(
        (1.0, 0.5),
        "temperature of the weights gamma exp(map / tau), a number, or START:END of a cosine "
        "schedule; smaller values favor the object more",
        metavar="X|START:END",
        shown="1.0:0.5",
    )
    gamma: Annotated[float, Field(gt=0)] | Literal["auto"] = option(
        "auto", "factor of the weights; auto: their mean over a batch is 1"
    )
    mask: Literal["random", "attention", "inverse"] = option(
        "random",
        "masked patches: random, those with the highest map values (attention), or those "
        "with the lowest (inverse)",
    )
    mask_share: Share = option(
        (1.0, 1.0),
        "fraction of the masked patches that the map chooses, a number, or START:END of a linear "
        "course, such as 0:0.5; the others are random",
        metavar="X|START:END",
        shown=1.0,
    )
    mask_ratio: float = option(0.75, "fraction of the patches that is masked", gt=0, lt=1)
    predict_ratio: float | None = option(
        None, "crossmae: fraction of all patches that is predicted", gt=0, lt=1, shown=0.25
    )
    norm_pix: bool = option(True, "normalize each target patch by its own mean and variance")
    decoder_dim: int = option(512, "embedding dimension of the decoder", ge=4)
    decoder_depth: int = option(8, "number of blocks of the decoder", ge=1)
    decoder_heads: int = option(16, "number of attention heads of the decoder", ge=1)
    epochs: int = option(
        100, "number of passes over the images, or of epochs of `epoch_images`", ge=1
    )
    warmup: float | None = option(
        None,
        "epochs of linear learning-rate warm-up",
        ge=0,
        metavar="X",
        shown="a twentieth of the epochs",
    )
    blr: float = option(
        1.5e-4, "learning rate for 256 images per step, scaled with the images per step", gt=0
    )
    lr: float | None = option(
        None, "learning rate, instead of `blr`", gt=0, shown="blr x images per step / 256"
    )
    weight_decay: float = option(0.05, "weight decay of AdamW", ge=0)
    crop_scale: float = option(
        0.2, "smallest fraction of an image's area in a random crop", gt=0, le=1
    )
    flip: bool = option(True, "flip images horizontally with probability 0.5")
    repeats: int = option(
        1,
        "augmented views of each image per epoch; the image is decoded once for all of them",
        ge=1,
    )
    knn_every: int | None = option(
        None,
        "epochs between two k-NN evaluations on held-out images, if the dataset has labels; "
        "0: never",
        ge=0,
        shown="a tenth of the epochs",
    )
    previews_every: int | None = option(
        None,
        "epochs between two pictures of reconstructions; 0: never",
        ge=0,
        shown="a tenth of the epochs",
    )
    batch_size: int = batch_size_option(64)

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
            "`mask_share` needs `mask=attention` or `mask=inverse`; random masks use no map": (
                self.mask == "random" and self.mask_share != (1, 1)
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
            "`cache=ram` keeps all images in memory; a stream (`epoch_images`) has no end": (
                self.cache == "ram" and self.epoch_images is not None
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
