"""The configs of `gta probe`: what a network has learnt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gtacli.config.common import CommonConfig, FilePath, ImageSize, read_numbers


def _read_shares(value: object) -> object:
    """Numbers as `read_numbers` reads whole ones: `0.07,0.1`, one alone, or a list."""
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


class AttentionProbeConfig(CommonConfig):
    """Whose attention is measured, on which images."""

    model: str | None = Field(
        default=None,
        description="the ViT whose attention is measured: a timm name, hf-hub:..., a run folder, "
        "ARCH@FILE, or a name of the gta.models registry",
        json_schema_extra={"metavar": "SPEC"},
    )
    compare: list[str] = Field(
        default_factory=list,
        description="further models on the same images; how far each one's attention is from "
        "--model's is measured too: all words up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
    data: str | None = Field(
        default=None,
        description="a data set's images, after those that are named, with its own masks where it "
        "has some: demo, voc/2012:ROOT, a csv with a column mask, a folder, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    masks: FilePath | None = Field(
        default=None,
        description="folder of the objects' masks, named like the images",
        json_schema_extra={"metavar": "DIR", "default": "the data's own, else TokenCut's"},
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="what all models see of every image, in pixels",
        json_schema_extra={"metavar": "N|HxW", "default": "--model's own"},
    )
    layer: Annotated[Literal["all", "last"] | tuple[int, ...], BeforeValidator(read_numbers)] = (
        Field(
            default="all",
            description="blocks, from the end if negative, as in -1 or 0,5,11",
            json_schema_extra={"metavar": "all|last|LIST"},
        )
    )
    discovery: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="TokenCut's options, as in --set discovery.tokencut.layer=-6",
        json_schema_extra={"flag": False},
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that read images; 0: none",
        json_schema_extra={"default": "by the machine"},
    )


class ProbeConfig(CommonConfig):
    """Who is measured, and what is compared with it."""

    model: str | None = Field(
        default=None,
        description="the ViT that is measured: a timm name, hf-hub:..., a run folder, ARCH@FILE, "
        "or a name of the gta.models registry",
        json_schema_extra={"metavar": "SPEC"},
    )
    compare: list[str] = Field(
        default_factory=list,
        description="further models on the same images, each tested against --model image by "
        "image: all words up to the next option",
        json_schema_extra={"metavar": "SPEC...", "multiple": True, "variadic": True},
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="what a model sees of every image, in pixels",
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
        json_schema_extra={"default": "by the machine"},
    )


class FeatureProbeConfig(ProbeConfig):
    """Whose features are measured, which ones, and on which data set."""

    data: str | None = Field(
        default=None,
        description="a labelled data set: a folder with train and val or test, a csv, "
        "torch/NAME:ROOT, demo, ...",
        json_schema_extra={"metavar": "SPEC"},
    )
    features: Literal["cls", "mean", "cls+mean"] = Field(
        default="cls", description="the CLS token, the mean of the patches, or both side by side"
    )
    layer: Annotated[Literal["all", "last"] | tuple[int, ...], BeforeValidator(read_numbers)] = (
        Field(
            default="last",
            description="blocks, from the end if negative, as in -1 or -4,-3,-2,-1; several side "
            "by side; each after the model's final norm",
            json_schema_extra={"metavar": "all|last|LIST"},
        )
    )
    cache: FilePath | None = Field(
        default=None,
        description="folder of the features, for all probes; never used for another model or "
        "other images",
        json_schema_extra={
            "metavar": "DIR",
            "default": "OUT/features; without --out runs/features",
        },
    )
    batch_size: int = Field(default=256, ge=1, description="images a step; on a CPU at most")


class KnnProbeConfig(FeatureProbeConfig):
    """`gta probe knn`."""

    k: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(read_numbers), Field(min_length=1)
    ] = Field(
        default=(10, 20, 100, 200),
        description="how many neighbours vote",
        json_schema_extra={"metavar": "LIST", "default": "10,20,100,200"},
    )
    temperature: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        BeforeValidator(_read_shares),
        Field(min_length=1),
    ] = Field(
        default=(0.07,),
        description="of the votes' weights, exp(cosine / temperature)",
        json_schema_extra={"metavar": "LIST", "default": "0.07"},
    )

    @property
    def main_k(self) -> int:
        """Whose accuracy is the result: 20, which usually is the best, or the first k."""
        return 20 if 20 in self.k else self.k[0]


class LinearProbeConfig(FeatureProbeConfig):
    """`gta probe linear`."""

    features: Literal["all", "cls", "mean", "cls+mean"] = Field(  # type: ignore[assignment]
        default="all",
        description="the CLS token, the mean of the patches, both side by side; all (sweep): "
        "choose among them and the CLS tokens of the last four blocks; (mae): cls",
    )
    protocol: Literal["sweep", "mae"] = Field(
        default="sweep",
        description="learning rates and features chosen on held-out images, no augmentation; or "
        "that of masked autoencoders: batch normalisation, LARS, augmentation",
    )
    lr: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...] | None, BeforeValidator(_read_shares)
    ] = Field(
        default=None,
        description="sweep: the learning rates, of standardised features; mae: the one for 256 "
        "images",
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
        description="mae: epochs in which the rate rises",
        json_schema_extra={"default": "10"},
    )
    race: bool = Field(
        default=True,
        description="sweep: drop heads on the way; off: all learn to the end, as in dinov2",
    )
    choose_on_test: bool = Field(
        default=False,
        description="choose the head (mae: the epoch) by the test images, as the published codes "
        "do; the result says so",
        json_schema_extra={"switch": True},
    )

    @model_validator(mode="after")
    def _one_rate(self) -> LinearProbeConfig:
        if self.protocol == "mae" and self.lr is not None and len(self.lr) > 1:
            raise ValueError("--lr: --protocol mae has one learning rate")
        if self.protocol == "sweep" and self.warmup is not None:
            raise ValueError("--warmup is for --protocol mae")
        if self.protocol == "mae" and not self.race:
            raise ValueError("--no-race is for --protocol sweep; mae trains one head")
        return self
