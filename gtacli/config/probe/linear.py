"""The config of `gta probe linear`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from gtacli.config.common import multi_label_option
from gtacli.config.option import option
from gtacli.config.probe.common import ExtractingProbeConfig, PositiveFloats, read_floats


class LinearProbeConfig(ExtractingProbeConfig):
    """Options of `gta probe linear`."""

    features: Literal["all", "cls", "mean", "cls+mean"] = option(  # type: ignore[assignment]
        "all",
        "the CLS token, the mean of the patches, both side by side; all (sweep): choose "
        "among them and the CLS tokens of the last four blocks; (mae): cls",
    )
    multi_label: bool = multi_label_option()
    protocol: Literal["sweep", "mae"] = option(
        "sweep",
        "sweep: head and features chosen on held-out images, no augmentation; mae: "
        "masked autoencoders' (batch normalization, LARS, augmentation)",
    )
    solver: Literal["auto", "logistic", "sgd"] = option(
        "auto",
        "sweep: logistic regression or dinov2's SGD; auto: logistic up to 1000 training images, or "
        "below 10 a class and up to 3000, unless an option of sgd is given",
    )
    c: PositiveFloats | None = option(
        None,
        "logistic: inverse strength of the penalty, for standardized features; several: choose "
        "among them, the first one preferred",
        metavar="LIST",
        shown="10",
    )
    folds: int | None = option(
        None,
        "logistic: folds of the cross-validation that chooses the head; 1: hold a fifth out once",
        ge=1,
        shown="5; none with a validation split",
    )
    lr: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...] | None, BeforeValidator(read_floats)
    ] = option(
        None,
        "sgd: learning rates, for standardized features; mae: the one per 256 images",
        metavar="LIST",
        shown="sgd: 13 by the steps; mae: 0.1",
    )
    epochs: int | None = option(
        None,
        "passes through the training images",
        ge=1,
        shown="sgd: 100, fewer of a large set, at least 10; mae: 90",
    )
    head_batch: int | None = option(
        None,
        "images a step of the classifier",
        ge=1,
        shown="sgd: a hundredth of the images, 64 to 1024; mae: 16384 or all",
    )
    warmup: int | None = option(
        None, "mae: epochs in which the learning rate rises", ge=0, shown="10"
    )
    race: bool = option(True, "sgd: drop heads on the way; off: train all to the end, as in dinov2")
    choose_on_test: bool = option(
        False,
        "choose the head (mae: the epoch) on the test images, as the published code does; "
        "the result says so",
        switch=True,
    )

    @model_validator(mode="after")
    def _check_layer(self) -> LinearProbeConfig:
        if self.features == "all" and self.layer != "last":
            raise ValueError("`layer` needs `features` (cls, mean, cls+mean): all chooses blocks")
        return self

    @model_validator(mode="after")
    def _check_protocol(self) -> LinearProbeConfig:
        if self.protocol == "mae" and self.lr is not None and len(self.lr) > 1:
            raise ValueError("`protocol=mae` has one learning rate, `lr` gives several")
        if self.protocol == "mae" and (self.executor is not None or self.shard[1] > 1):
            raise ValueError("`protocol=mae` trains on new views of the images, not on features")
        if self.protocol == "sweep" and self.warmup is not None:
            raise ValueError("`warmup` is for `protocol=mae`")
        if self.protocol == "mae" and not self.race:
            raise ValueError("`race=false` is for `protocol=sweep`; mae trains one head")
        return self

    @model_validator(mode="after")
    def _check_solver(self) -> LinearProbeConfig:
        logistic = [name for name in ("c", "folds") if getattr(self, name) is not None]
        sgd = [name for name in ("lr", "epochs", "head_batch") if getattr(self, name) is not None]
        sgd += [] if self.race else ["race=false"]
        if self.protocol == "mae":
            for name in logistic if self.solver == "auto" else ["solver"]:
                raise ValueError(f"`{name}` is for `protocol=sweep`")
        elif logistic and (sgd or self.solver == "sgd"):
            other = sgd[0] if sgd else "solver=sgd"
            raise ValueError(f"`{logistic[0]}` is for logistic regression, `{other}` for SGD")
        elif sgd and self.solver == "logistic":
            raise ValueError(f"`{sgd[0]}` is for SGD, not for `solver=logistic`")
        if self.folds is not None and self.choose_on_test:
            raise ValueError("`folds` and `choose_on_test` exclude each other")
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> LinearProbeConfig:
        given = [name for name in ("lr", "epochs", "head_batch", "folds") if getattr(self, name)]
        given += ["protocol=mae"] if self.protocol == "mae" else []
        given += ["solver=sgd"] if self.solver == "sgd" else []
        given += ["choose_on_test"] if self.choose_on_test else []
        if self.multi_label and given:
            raise ValueError(
                f"`multi_label` and `{given[0]}` exclude each other: it is a logistic regression "
                "for each label, chosen on held-out images"
            )
        return self

    @property
    def resolved_solver(self) -> Literal["auto", "logistic", "sgd"]:
        """The solver; logistic if an option of it is given."""
        given = self.c is not None or self.folds is not None
        return "logistic" if self.solver == "auto" and given else self.solver
