"""The config of `gta finetune`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic.fields import FieldInfo

from gtacli.config.common import (
    ImageSize,
    PartChoice,
    RegisterSetting,
    columns_option,
    multi_label_option,
    registers_option,
)
from gtacli.config.option import option
from gtacli.config.parts import GTAOptions
from gtacli.config.regularizers import KEY, fold
from gtacli.config.training import LOG, TrainingConfig, read_auto_batch
from gtacli.config.values import Level, Tree
from gtacli.registry import OPTIMIZERS, REGULARIZERS


def _default_regularizer() -> dict[str, dict[str, Any]]:
    return {"gta": {}}


_SPEC = {"metavar": "SPEC"}


def _known_train(train: str) -> str:
    if not re.fullmatch(r"all|head|norm\+bias|lora(:[1-9]\d{0,4})?", train):
        raise ValueError(f"must be one of all, head, norm+bias, lora, lora:RANK, got '{train}'")
    return train


class FinetuneConfig(TrainingConfig):
    """Options of the fine-tuning of a pretrained ViT with regularizers."""

    exclusive: ClassVar[tuple[tuple[str, str], ...]] = (("sampling_rate", "shots"),)
    first: ClassVar[tuple[str, ...]] = (
        "model", "data", "out", "regularizer", "lam", "sampling_rate", "epochs", "image_size",
        "batch_size", "resume",
    )  # fmt: skip
    part_choices: ClassVar[tuple[PartChoice, ...]] = (
        PartChoice(KEY, REGULARIZERS, KEY),
        PartChoice("optimizer", OPTIMIZERS, "optimizers"),
        LOG,
    )
    before: ClassVar[Mapping[str, Any]] = {
        "hold_out": 20.0,
        "head_init": "random",
        "linear_probe": False,
    }

    model: str | None = option(
        None,
        "model to train: a timm name, hf-hub:..., a run folder, ARCH@FILE, ARCH@none, or a "
        "registered name (`gta models list`)",
        metavar="SPEC",
        shown="the demo's",
    )
    init: str | None = option(
        None,
        "start from these weights, a file or a model specified like `model`, with their "
        "classifier if it is for the dataset's classes; the source keeps the model's own weights",
        metavar="SPEC|FILE",
        shown="the model's own",
    )
    source: str | None = option(
        None,
        "frozen model whose attention the regularizer preserves, specified like `model`",
        metavar="SPEC",
        shown="the model's own pretrained weights",
    )
    source_size: ImageSize | None = option(
        None,
        "image size of the source in pixels; its attention is resized to the model's patch grid",
        metavar="N|HxW",
        shown="the model's",
    )
    source_registers: RegisterSetting = registers_option("the source's")
    source_views: int | None = option(
        None,
        "fixed augmented views per image; the source's attention is computed once per view "
        "and cached",
        ge=1,
        metavar="K",
        shown="a new view each epoch",
    )
    data: str | None = option(
        None,
        "dataset: a folder (train/ val/ test/ of class folders, or bare class folders; CUB, "
        "Stanford Dogs and Cars, Aircraft, Pets as published), a .csv of path,label[,split], "
        "train.csv,test.csv, torch/NAME:ROOT, hfds/NAME, wds/URL, demo, or a registered name",
        metavar="SPEC",
        shown="demo",
    )
    columns: str | None = columns_option()
    multi_label: bool = multi_label_option()
    regularizer: dict[str, dict[str, Any]] = option(
        _default_regularizer,
        "penalty that keeps the model close to its source: gta, l2-sp, bss, none, or a "
        "plug-in's name; NAME:LAM sets its strength; may be given several times",
        metavar="NAME",
        shown="gta",
        choices=["none"],
        multiple=True,
    )
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] | None = option(
        None,
        "strength of the first regularizer; unset, that of gta is decided by the training images: "
        "its default or 0; auto: chosen on held-out images, in 1.4 to 2 times the training",
        metavar="X|auto",
        shown="gta 0.1, l2-sp 0.01, bss 0.001",
    )
    sampling_rate: float = option(
        100.0, "percentage of each class's training images to use, rounded up", gt=0, le=100
    )
    shots: int | None = option(
        None, "number of training images per class, instead of `sampling_rate`", ge=1, shown="off"
    )
    hold_out: Annotated[float, Field(gt=0, le=50)] | Literal["auto", "none"] = option(
        "auto",
        "percentage of each class to validate on instead of training on it, if the dataset has no "
        "validation split; auto: 20 of classes with 10 or more images, none of smaller ones",
        metavar="PERCENT|auto|none",
    )
    folds: int | None = option(
        None,
        "also measure by cross-validation: cut the training images into K folds, train on all but "
        "one and classify that one, for each; nothing else is held out, and it takes K runs more",
        ge=2,
        le=100,
        metavar="K",
        shown="off",
    )
    refit: bool = option(
        False,
        "then train again on all images, the held-out ones too; to the end of the schedule, "
        "unless validation shows that it should end earlier",
    )
    image_size: ImageSize | None = option(
        None,
        "image size of the model in pixels: 224, or HEIGHTxWIDTH",
        metavar="N|HxW",
        shown="the model's",
    )
    test_size: ImageSize | None = option(
        None,
        "image size at which the trained model is tested and used; where `image_size` is smaller "
        "than that of the model's pre-training, the latter gains accuracy",
        metavar="N|HxW",
        shown="that of training",
    )
    # Pre-training commonly uses 0.08. With four images per class (CUB, 160 px) plain fine-tuning of
    # a ViT-Tiny reached 67 % with 0.08 and 71 % with 0.4: small crops often miss the bird.
    crop_scale: float = option(
        0.4, "smallest fraction of an image's area in a random crop", gt=0, le=1
    )
    flip: bool = option(True, "flip training images horizontally with probability 0.5")
    mix: Literal["none", "mixup", "cutmix", "transmix"] = option(
        "none",
        "mix two images: mixup blends them, cutmix pastes a box from one into the other, "
        "transmix also weights their labels by the attention on the box",
    )
    mix_alpha: float | None = option(
        None,
        "alpha of the Beta(alpha, alpha) distribution of the mixing fractions",
        gt=0,
        shown="mixup 0.8, cutmix and transmix 1",
    )
    mix_prob: float = option(1.0, "probability that a batch is mixed", ge=0, le=1)
    transmix_weight: Literal["mean", "attention"] = option(
        "mean",
        "label weight of transmix: the attention's fraction, as in the paper, or its mean "
        "with the area's fraction, as in the released code",
    )
    auto_augment: str = option(
        "none",
        "timm's augmentation policy: rand-m9-mstd0.5-inc1 (RandAugment), original, v0 or 3a",
        metavar="POLICY",
        choices=["none", "rand-m9-mstd0.5-inc1", "original", "v0", "3a"],
    )
    color_jitter: float = option(
        0.0, "largest relative change of brightness, contrast and saturation", ge=0
    )
    random_erasing: float = option(
        0.0, "probability that a rectangle of an image is erased", ge=0, le=1
    )
    random_erasing_mode: Literal["pixel", "const"] = option(
        "pixel", "content of an erased rectangle: noise (pixel), or the mean color (const)"
    )
    drop_path: float = option(
        0.0,
        "probability that the last block is skipped in training (stochastic depth); it rises "
        "linearly from 0 at the first block; the source is not affected",
        ge=0,
        lt=1,
    )
    label_smoothing: float = option(
        0.0, "fraction of each label that is spread over all classes", ge=0, lt=1
    )
    loss: Literal["cross-entropy", "focal"] = option(
        "cross-entropy",
        "loss of the classes; focal: images, with `multi_label` labels, that are predicted well "
        "count less",
    )
    focal_gamma: float | None = option(
        None,
        "exponent of the focal loss: how much less they count; 0: cross-entropy",
        ge=0,
        le=100,
        shown="2",
    )
    balance: Literal["none", "loss", "sampling"] = option(
        "none",
        "give every class the same weight, however many training images it has: loss: images of "
        "rare classes count more; sampling: they are drawn more often, in new views; with "
        "`multi_label` loss: of each class the images with and without it have the same weight",
    )
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = option(
        20,
        "number of passes over the training images; auto: as many as 500 optimizer steps take, "
        "at least 10 and at most 100",
        metavar="N|auto",
    )
    patience: int | None = option(
        None,
        "stop after this many epochs without a better accuracy on the held-out images; the "
        "learning rate still follows `epochs`",
        ge=1,
        shown="off",
    )
    lr: float | None = option(None, "learning rate of the backbone", gt=0, shown="by the optimizer")
    head_lr_scale: float = option(
        10.0, "learning rate of the new head, as a multiple of `lr`", gt=0
    )
    train: Annotated[str, AfterValidator(_known_train)] = option(
        "all",
        "parameters that learn beside the head's: all, none (head), norms and biases, or "
        "low-rank adapters of every block's linear layers (lora), with 10 times the rate `lr`",
        metavar="all|head|norm+bias|lora[:RANK]",
        choices=["all", "head", "norm+bias", "lora"],
    )
    keep_adapter: bool = option(
        False,
        "also write the adapters alone (adapter.safetensors, in peft's layout) beside the "
        "weights that they are merged into",
    )
    pool: Literal["cls", "mean", "cls+mean"] | None = option(
        None,
        "features that the classifier reads: the CLS token (cls), the mean of the patches, or "
        "both, which is twice as wide",
        shown="the model's",
    )
    head_init: Literal["auto", "probe", "centroid", "random"] = option(
        "auto",
        "start of a new classifier: probe fits a logistic regression to the frozen features of "
        "the training images, centroid takes the class means, random starts at zero; auto: probe, "
        "or random where the source's attention does not suit the labels",
    )
    freeze_epochs: int = option(
        0,
        "epochs at the start in which only the head is trained; the backbone then has its "
        "own warm-up",
        ge=0,
    )
    layer_decay: float | None = option(
        None,
        "factor of the learning rate from each block to the one before it",
        gt=0,
        le=1,
        shown="off",
    )
    weight_decay: float | None = option(None, "weight decay", ge=0, shown="by the optimizer")
    warmup: float = option(1.0, "epochs of linear learning-rate warm-up", ge=0)
    optimizer: str = option(
        "adamw",
        "adamw, sgd, a plug-in's (`gta plugins list`), or another optimizer of timm",
        metavar="NAME",
    )
    optimizers: dict[str, dict[str, Any]] = option(
        dict, "options of optimizers, by name", flag=False
    )
    ema: float | None = option(
        None,
        "evaluate and save an exponential moving average of the weights with this decay "
        "(0.99 averages about 100 steps); the decay is smaller in the first steps",
        gt=0,
        lt=1,
        metavar="DECAY",
        shown="off",
    )
    average: Literal["none", "trajectory", "source"] = option(
        "none",
        "evaluate and save a mean of weights: trajectory: of the last quarter of the steps; "
        "source: of the backbone before and after training, weighted by held-out accuracy",
    )
    linear_probe: bool = option(
        True,
        "also measure, on the test images, a linear probe on the features before training; "
        "only for a new classifier",
    )
    drift: bool = option(True, "measure the distance from the source's attention after each epoch")
    track_attention: bool = option(
        False,
        "add to each epoch's metrics, by block, the attention's entropy, its KL divergence "
        "from the source's, and its fraction on the object if the dataset has masks; "
        "measured on the held-out images, or on a fifth of the training images",
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

    @property
    def leaves_attention_open(self) -> bool:
        """True where the program decides how much of the source's attention is kept."""
        first = next(iter(self.regularizer), None)
        # With the head alone the attention cannot change.
        return self.lam is None and first == "gta" and self.train != "head"

    @classmethod
    def flat_fields(cls) -> dict[str, FieldInfo]:
        return {k: v for k, v in GTAOptions.model_fields.items() if k != "lam"}

    @classmethod
    def merge_levels(cls, levels: Sequence[Level]) -> Tree:
        return fold(read_auto_batch(levels), cls.flat_fields())

    @model_validator(mode="after")
    def _check_views(self) -> FinetuneConfig:
        if self.source_views is not None and self.mix != "none":
            raise ValueError(
                "`source_views` and `mix` exclude each other: mixed views are new each time"
            )
        return self

    @model_validator(mode="after")
    def _check_balance(self) -> FinetuneConfig:
        if self.source_views is not None and self.balance == "sampling":
            raise ValueError(
                "`source_views` and `balance=sampling` exclude each other: an image that is drawn "
                "twice has two views in an epoch"
            )
        return self

    @model_validator(mode="after")
    def _check_loss(self) -> FinetuneConfig:
        if self.focal_gamma is not None and self.loss != "focal":
            raise ValueError("`focal_gamma` is for `loss=focal`")
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> FinetuneConfig:
        one_class = {
            "balance=sampling": self.balance == "sampling",
            "head_init=centroid": self.head_init == "centroid",
        }
        for name in (name for name, given in one_class.items() if given and self.multi_label):
            raise ValueError(f"`multi_label` and `{name}` exclude each other: it needs one class "
                             "per image")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _check_average(self) -> FinetuneConfig:
        if self.ema is not None and self.average == "trajectory":
            raise ValueError(
                "`ema` and `average=trajectory` exclude each other: both average the steps' weights"
            )
        return self

    @model_validator(mode="after")
    def _check_train(self) -> FinetuneConfig:
        if self.keep_adapter and not self.train.startswith("lora"):
            raise ValueError("`keep_adapter` needs adapters: `train=lora`")
        if self.keep_adapter and self.average == "source":
            raise ValueError(
                "`keep_adapter` and `average=source` exclude each other: no file holds the mean"
            )
        if self.freeze_epochs and self.train == "head":
            raise ValueError("`freeze_epochs` has no effect with `train=head`; leave it out")
        return self

    @model_validator(mode="after")
    def _check_folds(self) -> FinetuneConfig:
        if self.folds is None:
            return self
        other = {
            f"hold_out={self.hold_out}": isinstance(self.hold_out, float),
            "lam=auto": self.lam == "auto",
            "patience": self.patience is not None,
            "refit": self.refit,
        }
        for name in (name for name, given in other.items() if given):
            raise ValueError(
                f"`folds` and `{name}` exclude each other: with folds the run itself learns from "
                "all images"
            )
        return self

    @model_validator(mode="after")
    def _check_sampling(self) -> FinetuneConfig:
        if self.shots is not None and self.sampling_rate != 100:
            raise ValueError("`sampling_rate` and `shots` exclude each other")
        return self
