"""Options and field types that the probes share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gtacli.config.common import CommonConfig, FilePath, ImageSize, read_numbers


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


class ProbeConfig(CommonConfig):
    """Options shared by all probe commands except `attention`."""

    model: str | None = Field(
        default=None,
        description="the ViT to probe: a timm name, hf-hub:..., a run folder, ARCH@FILE, "
        "or a name of the gta.models registry",
        json_schema_extra={"metavar": "SPEC"},
    )
    compare: list[str] = Field(
        default_factory=list,
        description="further models on the same images, each tested against `model` image by "
        "image: all words up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="input size of the models, in pixels",
        json_schema_extra={"metavar": "N|HxW", "default": "each model's own"},
    )
    out: FilePath | None = Field(
        default=None,
        description="folder to write; new, empty, or an earlier probe's",
        json_schema_extra={"default": "runs/probe-NAME-DATE-TIME", "metavar": "DIR"},
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that read images; 0: none",
        json_schema_extra={"default": "one per core"},
    )


class FeatureProbeConfig(ProbeConfig):
    """Options shared by the probes of features."""

    data: str | None = Field(
        default=None,
        description="a labeled dataset: a folder with train and val or test, a csv, "
        "torch/NAME:ROOT, demo, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    features: Literal["cls", "mean", "cls+mean"] = Field(
        default="cls", description="the CLS token, the mean of the patches, or both side by side"
    )
    layer: BlockNumbers = Field(
        default="last",
        description="blocks, negative ones from the end, as in -1 or -4,-3,-2,-1; several side "
        "by side; each after the model's final norm",
        json_schema_extra={"metavar": "all|last|LIST"},
    )
    cache: FilePath | None = Field(
        default=None,
        description="folder of cached features, shared by all probes; changed models and images "
        "are extracted again",
        json_schema_extra={
            "metavar": "DIR",
            "default": "OUT/features; without `out` runs/features",
        },
    )
    batch_size: int = Field(
        default=256, ge=1, description="images per step; fewer on a CPU, by their size"
    )
