"""What the configs of commands that train have in common: not what is learnt, but how it runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gtacli.config.common import CommonConfig, FilePath, read_words


class TrainingConfig(CommonConfig):
    """How the one training loop runs."""

    augment_device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="where the training views are made: image by image in the workers, or in "
        "batches on the GPU, with the same random draws",
    )
    cache: Literal["auto", "ram", "none"] = Field(
        default="auto", description="keep decoded images in memory (auto: if they are small enough)"
    )
    batch_size: int = Field(default=32, ge=1, description="images a step, shared by all processes")
    accumulate: int = Field(default=1, ge=1, description="batches that make one optimiser step")
    clip_grad: float | None = Field(default=None, gt=0, description="largest norm of the gradient")
    grad_checkpointing: bool = Field(
        default=False,
        description="keep one activation a block and compute the others twice: "
        "less memory, more time",
    )
    compile: bool = Field(default=False, description="compile the networks (torch.compile)")
    partial_weights: bool = Field(
        default=False, description="accept weights that cover less than 90 % of the backbone"
    )
    nproc: int = Field(
        default=1,
        ge=1,
        description="processes on this machine, joined by torchrun: one a GPU; they share every "
        "batch, so their number changes the speed, not the result",
    )
    log: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow"], ...], BeforeValidator(read_words)
    ] = Field(
        default=(),
        description="report to this logger too (extra `loggers`): tensorboard, wandb, mlflow; may "
        "be given several times",
        json_schema_extra={"metavar": "LOGGER", "default": "none", "multiple": True},
    )
    resume: FilePath | None = Field(
        default=None,
        description="go on with an interrupted run",
        json_schema_extra={"metavar": "RUN"},
    )
