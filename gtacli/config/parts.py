"""Options of the built-in regularisers and discovery back-ends, apart from their code so that a
command line can be read, checked and printed without loading torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from gtacli.config.base import StrictModel
from gtacli.config.common import read_numbers

if TYPE_CHECKING:
    from gtacli.registry import Registry


def _read_layers(value: object) -> object:
    read = read_numbers(value)
    if isinstance(read, str) and read not in ("all", "last"):
        raise ValueError("must be all, last, or block numbers such as -1,-2")
    return read


def _write_layers(layers: str | tuple[int, ...]) -> str | int:
    if isinstance(layers, str):
        return layers
    return layers[0] if len(layers) == 1 else ",".join(map(str, layers))


# Block numbers; written as -1 or "-1,-2".
Layers = Annotated[
    Literal["all", "last"] | tuple[int, ...],
    BeforeValidator(_read_layers),
    PlainSerializer(_write_layers),
]


class RegularizerOptions(StrictModel):
    """What every regulariser has: its strength."""

    lam: float = Field(
        default=0.1, ge=0, allow_inf_nan=False, description="strength of the penalty"
    )


class GTAOptions(RegularizerOptions):
    """Guided transfer of spatial attention; see `gtacli.regularizers.gta` for the formulas."""

    guide: Literal["logits", "msa", "block"] = Field(
        default="logits",
        description="what is held near the source: attention logits, or the output of the "
        "attention sub-layer (msa) or of the block",
    )
    layers: Layers = Field(
        default="all", description="guided blocks: all, last, or a list such as -1,-2"
    )
    rows: Literal["cls", "all"] = Field(
        default="cls", description="query rows that are compared: the CLS token's, or every token's"
    )
    distance: Literal["l2", "kl"] = Field(
        default="l2", description="squared difference of the logits, or KL of their softmax"
    )
    reduction: Literal["sum", "mean"] = Field(
        default="sum", description="over the columns (patches) of a row"
    )
    center: bool = Field(
        default=False,
        description="ignore a shift of a whole row, which the softmax does not see either",
    )
    cls_column: Literal["exclude", "include"] = Field(
        default="exclude", description="whether the CLS token's own column is compared too"
    )
    decay: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="how the strength develops over the training"
    )


class L2SPOptions(RegularizerOptions):
    """Distance of the weights from their starting point; see `gtacli.regularizers.l2sp`."""

    lam: float = Field(default=0.01, ge=0, allow_inf_nan=False, description="alpha of the backbone")
    beta: float = Field(
        default=0.01, ge=0, allow_inf_nan=False, description="strength on the new head's weights"
    )
    decoupled: bool = Field(
        default=False,
        description="pull the weights after the optimiser's step instead of through the loss",
    )


class BSSOptions(RegularizerOptions):
    """Batch spectral shrinkage; see `gtacli.regularizers.bss`."""

    lam: float = Field(default=0.001, ge=0, allow_inf_nan=False, description="eta")
    k: int = Field(default=1, ge=1, description="how many of the smallest singular values shrink")


class DiscoveryOptions(StrictModel):
    """What every discovery back-end has: the block that it reads."""

    layer: int = Field(default=-1, description="block that is read, from the end if negative")


class TokenCutOptions(DiscoveryOptions):
    """Normalised cut of the keys; see `gtacli.discovery.ncut` for the formulas."""

    layer: int | Literal["auto"] = Field(  # type: ignore[assignment]  # numbers once resolved
        default="auto",
        description="block whose keys are cut, from the end if negative; auto: -1 for DINO's "
        "weights, for others the one that finds the most in scenes that the program draws",
    )
    tau: float | Literal["auto"] = Field(
        default="auto",
        description="cosine similarity above which two patches are joined; auto: 0.2 for DINO's "
        "weights, for others chosen with the layer",
    )
    eps: float = Field(default=1e-5, gt=0, lt=0.5, description="weight of all other edges")
    objects: int = Field(
        default=1, ge=1, description="objects an image at most, by repeated cuts (MaskCut)"
    )
    solver: Literal["auto", "krylov", "eigh", "scipy"] = Field(
        default="auto", description="of the eigenproblem; scipy is the published one"
    )


class DinoOptions(DiscoveryOptions):
    """Attention of the CLS token; see `gtacli.discovery.dino`."""

    heads: Literal["max", "mean", "best"] = Field(
        default="max",
        description="maximum or mean over heads, or in each image the head that agrees best with "
        "the others",
    )
    mass: float = Field(
        default=0.6, gt=0, lt=1, description="share of the attention that the mask holds"
    )


class GradCAMOptions(DiscoveryOptions):
    """Gradient-weighted class activation; see `gtacli.discovery.gradcam`."""

    target_class: Literal["predicted"] | int = Field(
        default="predicted",
        description="class index whose evidence is shown, or each predicted one",
    )


REGULARIZER_OPTIONS: dict[str, type[StrictModel]] = {
    "gta": GTAOptions,
    "l2-sp": L2SPOptions,
    "bss": BSSOptions,
}
DISCOVERY_OPTIONS: dict[str, type[StrictModel]] = {
    "tokencut": TokenCutOptions,
    "dino": DinoOptions,
    "gradcam": GradCAMOptions,
}


def built_in(
    registry: Registry[Any], name: str, options: Mapping[str, type[StrictModel]]
) -> type[StrictModel] | None:
    """Return the options' class of a part, or None if a plug-in offers the part."""
    return options[name] if name in options and registry.origin(name).builtin else None
