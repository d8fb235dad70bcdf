"""Options shared by the commands that train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator

from gtacli.config.common import CommonConfig, FilePath, PartChoice, RecordConfig, read_words
from gtacli.config.option import option
from gtacli.config.values import Level, Setting, Tree
from gtacli.errors import UsageError
from gtacli.registry import LOGGERS


def batch_size_option(default: int) -> Any:
    """Return the field `batch_size` of a command that trains."""
    return option(
        default,
        "images per step, over all processes; auto: as many, in parts that fit into memory "
        "(`fit_memory`)",
        ge=1,
        metavar="N|auto",
        choices=["auto"],
    )


LOG = PartChoice("log", LOGGERS, "loggers")


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        try:
            LOGGERS.origin(name)
        except UsageError as error:
            raise ValueError(error.message) from None
    return names


class TrainingConfig(RecordConfig, CommonConfig):
    """Options of the training loop."""

    # What runs did before an option existed, where that is not its default. A record without the
    # option means this value, so that such a run is resumed as it began.
    before: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def merge_levels(cls, levels: Sequence[Level]) -> Tree:
        """Merge all sources; `batch_size=auto` becomes `fit_memory`."""
        return super().merge_levels(read_auto_batch(levels))

    augment_device: Literal["cpu", "cuda"] = option(
        "cpu",
        "where training images are augmented: one by one in the workers, or in batches on "
        "the GPU, with the same random draws",
    )
    cache: Literal["auto", "ram", "none"] = option(
        "auto", "cache decoded images in memory; auto: if they are small enough"
    )
    batch_size: int = batch_size_option(32)
    accumulate: int = option(1, "batches per optimizer step", ge=1)
    fit_memory: bool = option(
        False,
        "take each batch in equal parts that fit into memory, found by trial steps; the images "
        "of an optimizer step stay the same",
    )
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
    shard_model: bool = option(
        False,
        "divide parameters, gradients and the optimizer's state among the processes (FSDP2), for "
        "networks whose training does not fit one GPU",
    )
    log: Annotated[tuple[str, ...], BeforeValidator(read_words), AfterValidator(_known)] = option(
        (),
        "also log to tensorboard, wandb, mlflow (extra loggers) or a plug-in's; may be given "
        "several times",
        metavar="LOGGER",
        shown="none",
        multiple=True,
    )
    loggers: dict[str, dict[str, Any]] = option(dict, "options of loggers, by name", flag=False)
    resume: FilePath | None = option(
        None,
        "continue an interrupted run with its own options; auto: the run in `out`, or begin it",
        metavar="RUN|auto",
        shown="a new run",
        choices=["auto"],
    )


def read_auto_batch(levels: Sequence[Level]) -> list[Level]:
    """Replace `batch_size=auto` by `fit_memory`, unless a higher source has a number.

    The number of images is then that of a lower source, or the default.
    """
    result: list[Level] = []
    auto: int | None = None  # the level that has the word
    for level in levels:
        tree = dict(level.tree)
        size = tree.get("batch_size")
        if isinstance(size, Setting) and size.value is not None:
            if auto is not None:
                result[auto] = Level(result[auto].rank, _without(result[auto].tree, "fit_memory"))
                auto = None
            if size.value == "auto":
                auto = len(result)
                del tree["batch_size"]
                tree["fit_memory"] = replace(size, value=True, typed=False)
        result.append(Level(level.rank, tree))
    return result


def _without(tree: Tree, key: str) -> Tree:
    return {name: value for name, value in tree.items() if name != key}
