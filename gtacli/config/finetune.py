"""The config of `gta finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from gtacli.config.base import StrictModel
from gtacli.config.common import ImageSize
from gtacli.config.parts import REGULARIZER_OPTIONS, GTAOptions, built_in
from gtacli.config.regularizers import KEY, fold
from gtacli.config.training import TrainingConfig
from gtacli.config.values import Level, Tree
from gtacli.registry import REGULARIZERS


def _default_regularizer() -> dict[str, dict[str, Any]]:
    return {"gta": {}}


_SPEC = {"metavar": "SPEC"}


class FinetuneConfig(TrainingConfig):
    """How a pretrained ViT is trained on a labelled set while a regulariser holds it."""

    exclusive: ClassVar[tuple[tuple[str, str], ...]] = (("sampling_rate", "shots"),)
    parts_key: ClassVar[str] = KEY

    model: str | None = Field(
        default=None,
        description="the network to train: a timm name, hf-hub:..., a run folder, ARCH@FILE, "
        "ARCH@none, or a name of the gta.models registry",
        json_schema_extra={**_SPEC, "default": "the built-in demo's"},
    )
    init: str | None = Field(
        default=None,
        description="start from these weights instead (a file, or specified like --model); the "
        "source stays the model with its own",
        json_schema_extra={"metavar": "SPEC|FILE", "default": "the model's own"},
    )
    source: str | None = Field(
        default=None,
        description="the frozen network it is held near, specified like --model",
        json_schema_extra={**_SPEC, "default": "the model's own pretrained weights"},
    )
    source_size: ImageSize | None = Field(
        default=None,
        description="what the source sees, in pixels; its attention is resized to the model's",
        json_schema_extra={"metavar": "N|HxW", "default": "the model's"},
    )
    source_views: int | None = Field(
        default=None,
        ge=1,
        description="draw so many views of each image in all, and let the source read them once: "
        "from then on GTA costs next to nothing",
        json_schema_extra={"metavar": "K", "default": "a new view each epoch"},
    )
    data: str | None = Field(
        default=None,
        description="the images: a folder (train/ val/ test/ of class folders, or bare class "
        "folders; CUB, Stanford Dogs and Cars, Aircraft, Pets as published), a .csv of "
        "path,label[,split], train.csv,test.csv, torch/NAME:ROOT, hfds/NAME, wds/URL, demo, or a "
        "name of the gta.datasets registry",
        json_schema_extra={**_SPEC, "default": "demo"},
    )
    regularizer: dict[str, dict[str, Any]] = Field(
        default_factory=_default_regularizer,
        description="what holds the network near its source: gta, l2-sp, bss, none, or a "
        "plug-in's; NAME:LAM sets its strength; may be given several times",
        json_schema_extra={
            "metavar": "NAME",
            "default": "gta",
            "choices": ["none"],
            "multiple": True,
        },
    )
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] | None = Field(
        default=None,
        description="strength of the first regulariser; auto: chosen on held-out training images, "
        "0 among the choices, at the cost of one more run",
        json_schema_extra={
            "metavar": "X|auto",
            "default": "its own: gta 0.1, l2-sp 0.01, bss 0.001",
        },
    )
    sampling_rate: float = Field(
        default=100.0,
        gt=0,
        le=100,
        description="per cent of each class's training images that are kept (rounded up)",
    )
    shots: int | None = Field(
        default=None, ge=1, description="keep so many training images a class instead"
    )
    refit: bool = Field(
        default=False,
        description="train again on all kept images with what validation chose",
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="what the network sees, in pixels: 224, or HEIGHTxWIDTH",
        json_schema_extra={"metavar": "N|HxW", "default": "the model's"},
    )
    # 0.08 is pre-training's value. With four images a class (CUB, 160 px) plain fine-tuning of a
    # ViT-Tiny reached 67 % with it and 71 % with 0.4: a small crop of a bird is often no bird.
    crop_scale: float = Field(
        default=0.4, gt=0, le=1, description="smallest share of an image that a random crop shows"
    )
    flip: bool = Field(default=True, description="mirror half of the training images")
    mix: Literal["none", "mixup", "cutmix", "transmix"] = Field(
        default="none",
        description="mix two images in a view: blended, or a box cut from one into the other; "
        "transmix weighs their labels by the attention that the box gets",
    )
    mix_alpha: float | None = Field(
        default=None,
        gt=0,
        description="the mixed shares follow Beta(alpha, alpha)",
        json_schema_extra={"default": "mixup 0.8, cutmix and transmix 1"},
    )
    mix_prob: float = Field(
        default=1.0, ge=0, le=1, description="probability that a batch is mixed at all"
    )
    transmix_weight: Literal["mean", "attention"] = Field(
        default="mean",
        description="a label's weight: the attention's share as in TransMix's paper, or its mean "
        "with the share of the area as in its released code",
    )
    auto_augment: str = Field(
        default="none",
        description="one of timm's policies: rand-m9-mstd0.5-inc1 (RandAugment), original, v0, 3a",
        json_schema_extra={"metavar": "POLICY"},
    )
    color_jitter: float = Field(
        default=0.0,
        ge=0,
        description="largest change of brightness, contrast and saturation (0.4: by 40 %)",
    )
    random_erasing: float = Field(
        default=0.0, ge=0, le=1, description="probability that an image loses a rectangle"
    )
    random_erasing_mode: Literal["pixel", "const"] = Field(
        default="pixel", description="what fills it: noise, or the mean colour"
    )
    drop_path: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability that a block is skipped in training, rising to it from the first "
        "block to the last; never in the source",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of each label that is spread over all classes"
    )
    epochs: int = Field(default=20, ge=1, description="passes over the training images")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop after so many epochs without a better accuracy on the held-out images; "
        "the schedule stays that of --epochs",
        json_schema_extra={"default": "off"},
    )
    lr: float | None = Field(
        default=None,
        gt=0,
        description="learning rate of the backbone",
        json_schema_extra={"default": "by the optimiser"},
    )
    head_lr_scale: float = Field(
        default=10.0, gt=0, description="learning rate of the new head, as a multiple of --lr"
    )
    freeze_epochs: int = Field(
        default=0,
        ge=0,
        description="epochs at the start in which the head learns alone; the backbone then has a "
        "warm-up of its own",
    )
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="factor on the learning rate from block to block down"
    )
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="of the optimiser",
        json_schema_extra={"default": "by the optimiser"},
    )
    warmup: float = Field(default=1.0, ge=0, description="epochs of rising learning rate")
    optimizer: str = Field(default="adamw", description="adamw, sgd, or another of timm's")
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="evaluate and keep a moving average of the weights with this decay (0.99: of "
        "some hundred steps); in the first steps the decay is smaller",
        json_schema_extra={"metavar": "DECAY", "default": "off"},
    )
    drift: bool = Field(
        default=True, description="measure each epoch how far the attention is from the source's"
    )
    track_attention: bool = Field(
        default=False,
        description="write into each epoch's metrics, block by block, how sharp the attention is, "
        "its KL from the source's, and the share on the object where the data has masks; on the "
        "held-out images",
    )

    @property
    def strengths(self) -> dict[str, float | Literal["auto"] | None]:
        """The strength of every regularizer by name, in order; None: the regularizer's own default.

        A strength has one home: `lam` for the first regularizer, `lam` in its own table for every
        other one. So it stands in recipes, in `run.json` and in printed configs.
        """
        first = next(iter(self.regularizer), None)
        return {
            name: self.lam if name == first else options.get("lam")
            for name, options in self.regularizer.items()
        }

    @classmethod
    def flat_fields(cls) -> dict[str, FieldInfo]:
        return {k: v for k, v in GTAOptions.model_fields.items() if k != "lam"}

    @classmethod
    def merge_levels(cls, levels: Sequence[Level]) -> Tree:
        return fold(levels, cls.flat_fields())

    @classmethod
    def part_options(cls, name: str) -> type[StrictModel] | None:
        return built_in(REGULARIZERS, name, REGULARIZER_OPTIONS)

    @model_validator(mode="after")
    def _views_as_they_are(self) -> FinetuneConfig:
        if self.source_views is not None and self.mix != "none":
            raise ValueError("source_views and mix exclude each other: a mixed view is always new")
        return self

    @model_validator(mode="after")
    def _one_sampling(self) -> FinetuneConfig:
        if self.shots is not None and self.sampling_rate != 100:
            raise ValueError("sampling_rate and shots exclude each other")
        return self
