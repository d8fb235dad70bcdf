"""The config of `gta probe linear`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from gtacli.config.option import option
from gtacli.config.probe.common import FeatureProbeConfig, read_floats


class LinearProbeConfig(FeatureProbeConfig):
    """Options of `gta probe linear`."""

    features: Literal["all", "cls", "mean", "cls+mean"] = option(  # type: ignore[assignment]
        "all",
        "the CLS token, the mean of the patches, both side by side; all (sweep): choose "
        "among them and the CLS tokens of the last four blocks; (mae): cls",
    )
    protocol: Literal["sweep", "mae"] = option(
        "sweep",
        "sweep: learning rate and features chosen on held-out images, no augmentation; mae: "
        "masked autoencoders' (batch normalization, LARS, augmentation)",
    )
    lr: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...] | None, BeforeValidator(read_floats)
    ] = option(
        None,
        "sweep: learning rates, for standardized features; mae: the one per 256 images",
        metavar="LIST",
        shown="sweep: 13 by the steps; mae: 0.1",
    )
    epochs: int | None = option(
        None,
        "passes through the training images",
        ge=1,
        shown="sweep: 100, fewer of a large set, at least 10; mae: 90",
    )
    head_batch: int | None = option(
        None,
        "images a step of the classifier",
        ge=1,
        shown="sweep: a hundredth of the images, 64 to 1024; mae: 16384 or all",
    )
    warmup: int | None = option(
        None, "mae: epochs in which the learning rate rises", ge=0, shown="10"
    )
    race: bool = option(
        True, "sweep: drop heads on the way; off: train all to the end, as in dinov2"
    )
    choose_on_test: bool = option(
        False,
        "choose the head (mae: the epoch) on the test images, as the published code does; "
        "the result says so",
        switch=True,
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
