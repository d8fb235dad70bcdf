"""Options of the built-in regularizers and discovery back-ends.

They are apart from the code of these parts, so that a command line can be validated and printed
without importing torch.
"""

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
    """Options of every regularizer."""

    lam: float = Field(
        default=0.1, ge=0, allow_inf_nan=False, description="strength of the penalty"
    )


class GTAOptions(RegularizerOptions):
    """Options of GTA; see `gtacli.regularizers.gta` for the formulas."""

    guide: Literal["logits", "msa", "block"] = Field(
        default="logits",
        description="quantity that is kept close to the source's: attention logits, or the output "
        "of the attention sub-layer (msa) or of the block",
    )
    layers: Layers = Field(
        default="all", description="regularized blocks: all, last, or a list such as -1,-2"
    )
    rows: Literal["cls", "all"] = Field(
        default="cls", description="compared attention rows: the CLS token's, or every token's"
    )
    distance: Literal["l2", "kl"] = Field(
        default="l2",
        description="squared difference of the logits, or KL divergence of their softmax",
    )
    reduction: Literal["sum", "mean"] = Field(
        default="sum", description="sum or mean over the columns (patches) of a row"
    )
    center: bool = Field(
        default=False,
        description="ignore a constant shift of a row, to which the softmax is invariant",
    )
    cls_column: Literal["exclude", "include"] = Field(
        default="exclude", description="leave out or compare the column of the CLS token"
    )
    decay: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="course of the strength over the training"
    )


class L2SPOptions(RegularizerOptions):
    """Options of L2-SP; see `gtacli.regularizers.l2sp`."""

    lam: float = Field(
        default=0.01,
        ge=0,
        allow_inf_nan=False,
        description="strength on the backbone's weights (alpha)",
    )
    beta: float = Field(
        default=0.01, ge=0, allow_inf_nan=False, description="strength on the new head's weights"
    )
    decoupled: bool = Field(
        default=False,
        description="pull the weights to the source after the optimizer's step, not through the "
        "loss",
    )


class BSSOptions(RegularizerOptions):
    """Options of batch spectral shrinkage; see `gtacli.regularizers.bss`."""

    lam: float = Field(
        default=0.001, ge=0, allow_inf_nan=False, description="strength of the penalty (eta)"
    )
    k: int = Field(
        default=1, ge=1, description="number of smallest singular values that are penalized"
    )


class DiscoveryOptions(StrictModel):
    """Options of every discovery back-end."""

    layer: int = Field(default=-1, description="block to use, from the end if negative")


class TokenCutOptions(DiscoveryOptions):
    """Options of TokenCut; see `gtacli.discovery.ncut` for the formulas."""

    layer: int | Literal["auto"] = Field(  # type: ignore[assignment]  # numbers once resolved
        default="auto",
        description="block whose keys are used, from the end if negative; auto: -1 for DINO's "
        "weights, for others the block with the best result on generated scenes",
    )
    tau: float | Literal["auto"] = Field(
        default="auto",
        description="cosine similarity above which two patches are connected; auto: 0.2 for "
        "DINO's weights, for others chosen together with the block",
    )
    eps: float = Field(default=1e-5, gt=0, lt=0.5, description="weight of all other edges")
    objects: int = Field(
        default=1,
        ge=1,
        description="maximum number of objects per image, by repeated cuts (MaskCut)",
    )
    solver: Literal["auto", "krylov", "eigh", "scipy"] = Field(
        default="auto", description="solver of the eigenproblem; scipy: as published"
    )


class DinoOptions(DiscoveryOptions):
    """Options of DINO's attention maps; see `gtacli.discovery.dino`."""

    heads: Literal["max", "mean", "best"] = Field(
        default="max",
        description="maximum or mean over the heads, or each image's head that agrees best with "
        "the others",
    )
    mass: float = Field(
        default=0.6, gt=0, lt=1, description="fraction of the attention inside the mask"
    )


class GradCAMOptions(DiscoveryOptions):
    """Options of Grad-CAM; see `gtacli.discovery.gradcam`."""

    target_class: Literal["predicted"] | int = Field(
        default="predicted",
        description="class index, or each image's predicted class",
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
