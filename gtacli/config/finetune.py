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
    """Options of the fine-tuning of a pretrained ViT with regularizers."""

    exclusive: ClassVar[tuple[tuple[str, str], ...]] = (("sampling_rate", "shots"),)
    parts_key: ClassVar[str] = KEY

    model: str | None = Field(
        default=None,
        description="model to train: a timm name, hf-hub:..., a run folder, ARCH@FILE, ARCH@none, "
        "or a registered name (`gta models list`)",
        json_schema_extra={**_SPEC, "default": "the demo's"},
    )
    init: str | None = Field(
        default=None,
        description="start from these weights, a file or a model specified like `model`; the "
        "source keeps the model's own weights",
        json_schema_extra={"metavar": "SPEC|FILE", "default": "the model's own"},
    )
    source: str | None = Field(
        default=None,
        description="frozen model whose attention the regularizer preserves, specified like "
        "`model`",
        json_schema_extra={**_SPEC, "default": "the model's own pretrained weights"},
    )
    source_size: ImageSize | None = Field(
        default=None,
        description="image size of the source in pixels; its attention is resized to the model's "
        "patch grid",
        json_schema_extra={"metavar": "N|HxW", "default": "the model's"},
    )
    source_views: int | None = Field(
        default=None,
        ge=1,
        description="fixed augmented views per image; the source's attention is computed once per "
        "view and cached",
        json_schema_extra={"metavar": "K", "default": "a new view each epoch"},
    )
    data: str | None = Field(
        default=None,
        description="dataset: a folder (train/ val/ test/ of class folders, or bare class "
        "folders; CUB, Stanford Dogs and Cars, Aircraft, Pets as published), a .csv of "
        "path,label[,split], train.csv,test.csv, torch/NAME:ROOT, hfds/NAME, wds/URL, demo, or a "
        "registered name",
        json_schema_extra={**_SPEC, "default": "demo"},
    )
    regularizer: dict[str, dict[str, Any]] = Field(
        default_factory=_default_regularizer,
        description="penalty that keeps the model close to its source: gta, l2-sp, bss, none, or "
        "a plug-in's name; NAME:LAM sets its strength; may be given several times",
        json_schema_extra={
            "metavar": "NAME",
            "default": "gta",
            "choices": ["none"],
            "multiple": True,
        },
    )
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] | None = Field(
        default=None,
        description="strength of the first regularizer; auto: chosen on held-out training images "
        "(0 is one of the choices), which doubles the training time at most",
        json_schema_extra={
            "metavar": "X|auto",
            "default": "gta 0.1, l2-sp 0.01, bss 0.001",
        },
    )
    sampling_rate: float = Field(
        default=100.0,
        gt=0,
        le=100,
        description="percentage of each class's training images to use, rounded up",
    )
    shots: int | None = Field(
        default=None,
        ge=1,
        description="number of training images per class, instead of `sampling_rate`",
        json_schema_extra={"default": "off"},
    )
    refit: bool = Field(
        default=False,
        description="then train again on all images, the held-out ones too, for the number of "
        "epochs that validation chose",
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="image size of the model in pixels: 224, or HEIGHTxWIDTH",
        json_schema_extra={"metavar": "N|HxW", "default": "the model's"},
    )
    # Pre-training commonly uses 0.08. With four images per class (CUB, 160 px) plain fine-tuning of
    # a ViT-Tiny reached 67 % with 0.08 and 71 % with 0.4: small crops often miss the bird.
    crop_scale: float = Field(
        default=0.4, gt=0, le=1, description="smallest fraction of an image's area in a random crop"
    )
    flip: bool = Field(
        default=True, description="flip training images horizontally with probability 0.5"
    )
    mix: Literal["none", "mixup", "cutmix", "transmix"] = Field(
        default="none",
        description="mix two images: mixup blends them, cutmix pastes a box from one into the "
        "other, transmix also weights their labels by the attention on the box",
    )
    mix_alpha: float | None = Field(
        default=None,
        gt=0,
        description="alpha of the Beta(alpha, alpha) distribution of the mixing fractions",
        json_schema_extra={"default": "mixup 0.8, cutmix and transmix 1"},
    )
    mix_prob: float = Field(
        default=1.0, ge=0, le=1, description="probability that a batch is mixed"
    )
    transmix_weight: Literal["mean", "attention"] = Field(
        default="mean",
        description="label weight of transmix: the attention's fraction, as in the paper, or its "
        "mean with the area's fraction, as in the released code",
    )
    auto_augment: str = Field(
        default="none",
        description="timm's augmentation policy: rand-m9-mstd0.5-inc1 (RandAugment), original, v0 "
        "or 3a",
        json_schema_extra={
            "metavar": "POLICY",
            "choices": ["none", "rand-m9-mstd0.5-inc1", "original", "v0", "3a"],
        },
    )
    color_jitter: float = Field(
        default=0.0,
        ge=0,
        description="largest relative change of brightness, contrast and saturation",
    )
    random_erasing: float = Field(
        default=0.0, ge=0, le=1, description="probability that a rectangle of an image is erased"
    )
    random_erasing_mode: Literal["pixel", "const"] = Field(
        default="pixel",
        description="content of an erased rectangle: noise (pixel), or the mean color (const)",
    )
    drop_path: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability that the last block is skipped in training (stochastic depth); "
        "it rises linearly from 0 at the first block; the source is not affected",
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="fraction of each label that is spread over all classes",
    )
    epochs: int = Field(default=20, ge=1, description="number of passes over the training images")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop after this many epochs without a better accuracy on the held-out "
        "images; the learning rate still follows `epochs`",
        json_schema_extra={"default": "off"},
    )
    lr: float | None = Field(
        default=None,
        gt=0,
        description="learning rate of the backbone",
        json_schema_extra={"default": "by the optimizer"},
    )
    head_lr_scale: float = Field(
        default=10.0, gt=0, description="learning rate of the new head, as a multiple of `lr`"
    )
    freeze_epochs: int = Field(
        default=0,
        ge=0,
        description="epochs at the start in which only the head is trained; the backbone then has "
        "its own warm-up",
    )
    layer_decay: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="factor of the learning rate from each block to the one before it",
        json_schema_extra={"default": "off"},
    )
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="weight decay",
        json_schema_extra={"default": "by the optimizer"},
    )
    warmup: float = Field(default=1.0, ge=0, description="epochs of linear learning-rate warm-up")
    optimizer: str = Field(
        default="adamw",
        description="adamw, sgd, or another optimizer of timm",
        json_schema_extra={"choices": ["adamw", "sgd"]},
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="evaluate and save an exponential moving average of the weights with this "
        "decay (0.99 averages about 100 steps); the decay is smaller in the first steps",
        json_schema_extra={"metavar": "DECAY", "default": "off"},
    )
    drift: bool = Field(
        default=True,
        description="measure the distance from the source's attention after each epoch",
    )
    track_attention: bool = Field(
        default=False,
        description="add to each epoch's metrics, by block, the attention's entropy, its KL "
        "divergence from the source's, and its fraction on the object if the dataset has masks; "
        "measured on the held-out images",
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
    def _check_views(self) -> FinetuneConfig:
        if self.source_views is not None and self.mix != "none":
            raise ValueError(
                "`source_views` and `mix` exclude each other: mixed views are new each time"
            )
        return self

    @model_validator(mode="after")
    def _check_sampling(self) -> FinetuneConfig:
        if self.shots is not None and self.sampling_rate != 100:
            raise ValueError("`sampling_rate` and `shots` exclude each other")
        return self
