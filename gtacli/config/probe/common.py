"""Options and field types that the probes share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from gtacli.config.common import (
    CommonConfig,
    FilePath,
    ImageSize,
    PartChoice,
    RegisterSetting,
    columns_option,
    read_numbers,
    registers_option,
)
from gtacli.config.option import option
from gtacli.config.shards import (
    EXECUTOR,
    Shard,
    executor_option,
    executors_option,
    jobs_option,
    require_executor,
)


def read_floats(value: object) -> object:
    """Accept `0.07,0.1` from a command line, a bare number, and a list from a recipe."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (float(value),)
    if isinstance(value, list):
        return tuple(float(v) if isinstance(v, int) else v for v in value)
    if isinstance(value, str):
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            return value
    return value


BlockNumbers = Annotated[Literal["all", "last"] | tuple[int, ...], BeforeValidator(read_numbers)]
Counts = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(read_numbers), Field(min_length=1)
]
PositiveFloats = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(read_floats), Field(min_length=1)
]


def features_option() -> Any:
    """Return the field `features` of a config."""
    return option("cls", "the CLS token, the mean of the patches, or both side by side")


def layer_option() -> Any:
    """Return the field `layer` of a config whose features may be those of several blocks."""
    return option(
        "last",
        "blocks, negative ones from the end, as in -1 or -4,-3,-2,-1; several side by side; "
        "each after the model's final norm",
        metavar="all|last|LIST",
    )


class ProbeConfig(CommonConfig):
    """Options shared by all probe commands except `attention`."""

    model: str | None = option(
        None,
        "the ViT to probe: a timm name, hf-hub:..., a run folder, ARCH@FILE, or a name of "
        "the gta.models registry",
        metavar="SPEC",
    )
    compare: list[str] = option(
        list,
        "further models on the same images, each tested against `model` image by image: all "
        "words up to the next option",
        metavar="SPEC...",
        multiple=True,
        variadic=True,
    )
    image_size: ImageSize | None = option(
        None, "input size of the models, in pixels", metavar="N|HxW", shown="each model's own"
    )
    registers: RegisterSetting = registers_option("the model's")
    out: FilePath | None = option(
        None,
        "folder to write; new, empty, or an earlier probe's",
        shown="runs/probe-NAME-DATE-TIME",
        metavar="DIR",
    )
    workers: int | None = option(
        None, "threads that read images; 0: none", ge=0, shown="one per core"
    )


class FeatureProbeConfig(ProbeConfig):
    """Options shared by the probes of features."""

    data: str | None = option(
        None,
        "a labeled dataset: a folder with train and val or test, a csv, torch/NAME:ROOT, demo, ...",
        metavar="SPEC",
    )
    columns: str | None = columns_option()
    features: Literal["cls", "mean", "cls+mean"] = features_option()
    layer: BlockNumbers = layer_option()
    cache: FilePath | None = option(
        None,
        "folder of cached features, shared by all probes; changed models and images are "
        "extracted again",
        metavar="DIR",
        shown="OUT/features; without `out` runs/features",
    )
    batch_size: int = option(256, "images per step; fewer on a CPU, by their size", ge=1)


class ExtractingProbeConfig(FeatureProbeConfig):
    """Options of the probes whose features can be extracted by several commands."""

    part_choices: ClassVar[tuple[PartChoice, ...]] = (EXECUTOR,)

    executor: str | None = executor_option(
        "extract the features in parts, by commands of their own"
    )
    executors: dict[str, dict[str, Any]] = executors_option()
    jobs: int | None = jobs_option()
    shard: Shard = option(
        (0, 1),
        "extract the I-th of N parts of the features that `cache` lacks, and measure nothing",
        metavar="I/N",
        shown="0/1, all, and measure",
    )

    @model_validator(mode="after")
    def _check_parts(self) -> ExtractingProbeConfig:
        require_executor(self.executor, self.jobs)
        if self.shard[1] > 1 and self.cache is None:
            raise ValueError("`shard` needs `cache`, the folder that all parts share")
        if self.shard[1] > 1 and self.executor is not None:
            raise ValueError("`shard` is one part, `executor` hands out all of them")
        return self
