"""Options shared by the commands that train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from gtacli.config.common import CommonConfig, FilePath, RecordConfig, read_words
from gtacli.config.option import option


class TrainingConfig(RecordConfig, CommonConfig):
    """Options of the training loop."""

    # What runs did before an option existed, where that is not its default. A record without the
    # option means this value, so that such a run is resumed as it began.
    before: ClassVar[Mapping[str, Any]] = {}

    augment_device: Literal["cpu", "cuda"] = option(
        "cpu",
        "where training images are augmented: one by one in the workers, or in batches on "
        "the GPU, with the same random draws",
    )
    cache: Literal["auto", "ram", "none"] = option(
        "auto", "cache decoded images in memory; auto: if they are small enough"
    )
    batch_size: int = option(32, "images per step, over all processes", ge=1)
    accumulate: int = option(1, "batches per optimizer step", ge=1)
    clip_grad: float | None = option(None, "largest norm of the gradient", gt=0, shown="off")
    grad_checkpointing: bool = option(
        False, "store one activation per block and recompute the others: less memory, more time"
    )
    compile: bool = option(False, "compile the models with torch.compile")
    partial_weights: bool = option(
        False, "accept weights for less than 90 % of the backbone's tensors"
    )
    nproc: int = option(
        1,
        "number of processes on this machine, one per GPU; they share every batch, "
        "so the number changes the speed, not the result",
        ge=1,
    )
    log: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow"], ...], BeforeValidator(read_words)
    ] = option(
        (),
        "also log to tensorboard, wandb or mlflow (extra loggers); may be given several times",
        metavar="LOGGER",
        shown="none",
        multiple=True,
    )
    resume: FilePath | None = option(
        None,
        "continue an interrupted run with its own options; auto: the run in `out`, or begin it",
        metavar="RUN|auto",
        shown="a new run",
        choices=["auto"],
    )
