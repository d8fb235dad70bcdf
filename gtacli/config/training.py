"""Options shared by the commands that train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gtacli.config.common import CommonConfig, FilePath, read_words


class TrainingConfig(CommonConfig):
    """Options of the training loop."""

    augment_device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="where training images are augmented: one by one in the workers, or in "
        "batches on the GPU, with the same random draws",
    )
    cache: Literal["auto", "ram", "none"] = Field(
        default="auto", description="cache decoded images in memory; auto: if they are small enough"
    )
    batch_size: int = Field(default=32, ge=1, description="images per step, over all processes")
    accumulate: int = Field(default=1, ge=1, description="batches per optimizer step")
    clip_grad: float | None = Field(
        default=None,
        gt=0,
        description="largest norm of the gradient",
        json_schema_extra={"default": "off"},
    )
    grad_checkpointing: bool = Field(
        default=False,
        description="store one activation per block and recompute the others: less memory, more "
        "time",
    )
    compile: bool = Field(default=False, description="compile the models with torch.compile")
    partial_weights: bool = Field(
        default=False, description="accept weights for less than 90 % of the backbone's tensors"
    )
    nproc: int = Field(
        default=1,
        ge=1,
        description="number of processes on this machine, one per GPU, started with torchrun; "
        "they share every batch, so the number changes the speed, not the result",
    )
    log: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow"], ...], BeforeValidator(read_words)
    ] = Field(
        default=(),
        description="also log to tensorboard, wandb or mlflow (extra loggers); may be given "
        "several times",
        json_schema_extra={"metavar": "LOGGER", "default": "none", "multiple": True},
    )
    resume: FilePath | None = Field(
        default=None,
        description="continue an interrupted run with its own options",
        json_schema_extra={"metavar": "RUN", "default": "a new run"},
    )
