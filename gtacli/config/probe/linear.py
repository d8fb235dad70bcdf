"""The config of `gta probe linear`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from gtacli.config.probe.common import FeatureProbeConfig, read_floats


class LinearProbeConfig(FeatureProbeConfig):
    """Options of `gta probe linear`."""

    features: Literal["all", "cls", "mean", "cls+mean"] = Field(  # type: ignore[assignment]
        default="all",
        description="the CLS token, the mean of the patches, both side by side; all (sweep): "
        "choose among them and the CLS tokens of the last four blocks; (mae): cls",
    )
    protocol: Literal["sweep", "mae"] = Field(
        default="sweep",
        description="sweep: learning rate and features chosen on held-out images, no augmentation; "
        "mae: masked autoencoders' (batch normalization, LARS, augmentation)",
    )
    lr: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...] | None, BeforeValidator(read_floats)
    ] = Field(
        default=None,
        description="sweep: learning rates, for standardized features; mae: the one per 256 images",
        json_schema_extra={"metavar": "LIST", "default": "sweep: 13 by the steps; mae: 0.1"},
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="passes through the training images",
        json_schema_extra={"default": "sweep: 100, fewer of a large set, at least 10; mae: 90"},
    )
    head_batch: int | None = Field(
        default=None,
        ge=1,
        description="images a step of the classifier",
        json_schema_extra={
            "default": "sweep: a hundredth of the images, 64 to 1024; mae: 16384 or all"
        },
    )
    warmup: int | None = Field(
        default=None,
        ge=0,
        description="mae: epochs in which the learning rate rises",
        json_schema_extra={"default": "10"},
    )
    race: bool = Field(
        default=True,
        description="sweep: drop heads on the way; off: train all to the end, as in dinov2",
    )
    choose_on_test: bool = Field(
        default=False,
        description="choose the head (mae: the epoch) on the test images, as the published code "
        "does; the result says so",
        json_schema_extra={"switch": True},
    )

    @model_validator(mode="after")
    def _check_protocol(self) -> LinearProbeConfig:
        if self.protocol == "mae" and self.lr is not None and len(self.lr) > 1:
            raise ValueError("`protocol=mae` has one learning rate, `lr` gives several")
        if self.protocol == "sweep" and self.warmup is not None:
            raise ValueError("`warmup` is for `protocol=mae`")
        if self.protocol == "mae" and not self.race:
            raise ValueError("`race=false` is for `protocol=sweep`; mae trains one head")
        return self
