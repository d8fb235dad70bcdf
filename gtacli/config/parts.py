"""Options of the built-in regularizers and discovery back-ends.

They are apart from the code of these parts, so that a command line can be validated and printed
without importing torch; the entry points in `gta.options` say whose they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from gtacli.config.base import StrictModel
from gtacli.config.common import read_numbers, read_words
from gtacli.config.option import option


def _read_layers(value: object) -> object:
    read = read_numbers(value)
    if isinstance(read, str) and read not in ("all", "last"):
        raise ValueError("must be all, last, or block numbers such as -1,-2")
    return read


def _write_layers(layers: str | tuple[int, ...]) -> str | int:
    if isinstance(layers, str):
        return layers
    return layers[0] if len(layers) == 1 else ",".join(map(str, layers))


def _read_vote(value: object) -> object:
    return () if value == "none" else read_numbers(value)


# Block numbers that vote, "auto" or none.
Blocks = Annotated[
    Literal["auto"] | tuple[int, ...],
    BeforeValidator(_read_vote),
    PlainSerializer(lambda blocks: blocks if isinstance(blocks, str) else list(blocks)),
]
# Block numbers; written as -1 or "-1,-2".
Layers = Annotated[
    Literal["all", "last"] | tuple[int, ...],
    BeforeValidator(_read_layers),
    PlainSerializer(_write_layers),
]


# Numbers of heads, written in the same way.
Heads = Annotated[
    Literal["max", "mean", "all"] | tuple[int, ...],
    BeforeValidator(read_numbers),
    PlainSerializer(_write_layers),
]


class RegularizerOptions(StrictModel):
    """Options of every regularizer."""

    lam: float = option(0.1, "strength of the penalty", ge=0, allow_inf_nan=False)


class GTAOptions(RegularizerOptions):
    """Options of GTA; see `gtacli.regularizers.gta` for the formulas."""

    guide: Literal["logits", "msa", "block"] = option(
        "logits",
        "quantity that is kept close to the source's: attention logits, or the output of the "
        "attention sub-layer (msa) or of the block",
    )
    layers: Layers = option("all", "regularized blocks: all, last, or a list such as -1,-2")
    rows: Literal["cls", "all"] = option(
        "cls", "compared attention rows: the CLS token's, or every token's"
    )
    distance: Literal["l2", "kl"] = option(
        "l2", "squared difference of the logits, or KL divergence of their softmax"
    )
    reduction: Literal["sum", "mean"] = option(
        "sum", "sum or mean over the columns (patches) of a row"
    )
    center: bool = option(
        False, "ignore a constant shift of a row, to which the softmax is invariant"
    )
    cls_column: Literal["exclude", "include"] = option(
        "exclude", "leave out or compare the column of the CLS token"
    )
    decay: Literal["constant", "linear", "cosine"] = option(
        "constant", "course of the strength over the training"
    )
    every: int = option(
        1, "optimizer steps from one penalty to the next, which is as many times stronger", ge=1
    )


class L2SPOptions(RegularizerOptions):
    """Options of L2-SP; see `gtacli.regularizers.l2sp`."""

    lam: float = option(
        0.01, "strength on the backbone's weights (alpha)", ge=0, allow_inf_nan=False
    )
    beta: float = option(0.01, "strength on the new head's weights", ge=0, allow_inf_nan=False)
    decoupled: bool = option(
        False, "pull the weights to the source after the optimizer's step, not through the loss"
    )


class BSSOptions(RegularizerOptions):
    """Options of batch spectral shrinkage; see `gtacli.regularizers.bss`."""

    lam: float = option(0.001, "strength of the penalty (eta)", ge=0, allow_inf_nan=False)
    k: int = option(1, "number of smallest singular values that are penalized", ge=1)


class OptimizerOptions(StrictModel):
    """Options of every optimizer."""


class AdamWOptions(OptimizerOptions):
    """Options of AdamW."""

    beta1: float = option(0.9, "decay of the mean of the gradients", ge=0, lt=1)
    beta2: float = option(0.999, "decay of the mean of their squares", ge=0, lt=1)
    eps: float = option(1e-8, "added to the root of that mean", gt=0)


class SGDOptions(OptimizerOptions):
    """Options of stochastic gradient descent."""

    momentum: float = option(0.9, "decay of the sum of the gradients", ge=0, lt=1)
    nesterov: bool = option(True, "take the gradient after the momentum's step")

    @model_validator(mode="after")
    def _check_momentum(self) -> SGDOptions:
        if self.nesterov and not self.momentum:
            raise ValueError("`nesterov` needs a `momentum` above 0")
        return self


class LoggerOptions(StrictModel):
    """Options of every logger."""


class WandBOptions(LoggerOptions):
    """Options of the logger to Weights & Biases."""

    project: str | None = option(
        None, "project of the run", metavar="NAME", shown="$WANDB_PROJECT, or gta"
    )


class MLflowOptions(LoggerOptions):
    """Options of the logger to MLflow."""

    experiment: str | None = option(
        None, "experiment of the run", metavar="NAME", shown="$MLFLOW_EXPERIMENT_NAME"
    )


class MapOptions(StrictModel):
    """Options of every kind of attention maps."""


class ClsMapOptions(MapOptions):
    """Options of maps of the CLS token's attention."""

    layer: Layers = option((-1,), "blocks, from the end if negative", shown=-1)
    heads: Heads = option("max", "maximum or mean over the heads, every head, or their numbers")


class RolloutOptions(MapOptions):
    """Options of attention rollout; see `gtacli.models.rollout`."""

    layer: Layers = option((-1,), "blocks up to which it goes, from the end if negative", shown=-1)
    heads: Heads = option("mean", "mean (published) or maximum over the heads")


class ClassMapOptions(MapOptions):
    """Options of maps of the relevance for a class."""

    target_class: Literal["predicted"] | int = option(
        "predicted", "class index, or each image's predicted class"
    )


class AttnLRPOptions(ClassMapOptions):
    """Options of AttnLRP; see `gtacli.models.attnlrp`."""

    # Chosen by insertion and deletion (docs/attention-maps.md).
    gamma: float = option(0.05, "the gamma rule's; larger is less noisy, 0 is the plain rule", ge=0)


class DiscoveryOptions(StrictModel):
    """Options of every discovery back-end."""

    layer: int = option(-1, "block to use, from the end if negative")


class TokenCutOptions(DiscoveryOptions):
    """Options of TokenCut; see `gtacli.discovery.ncut` for the formulas."""

    layer: int | Literal["auto"] = option(  # type: ignore[assignment]  # numbers once resolved
        "auto",
        "block whose keys are used, from the end if negative; auto: -1 for DINO's weights, "
        "for others the block with the best result on generated scenes",
    )
    tau: float | Literal["auto"] = option(
        "auto",
        "cosine similarity above which two patches are connected; auto: 0.2 for DINO's "
        "weights, for others chosen together with the block",
    )
    eps: float = option(1e-5, "weight of all other edges", gt=0, lt=0.5)
    side: Literal["auto", "seed", "center"] = option(
        "auto",
        "part of the cut that is the object; seed: that of the largest entry, as published; "
        "center: the connected part nearest to the image's center; auto: seed for DINO's weights, "
        "else center",
    )
    vote: Blocks = option(
        "auto",
        "blocks whose similarities are averaged, in place of one block; auto: the pair of blocks, "
        "or the single one, with the best result on generated scenes, where `layer` and `tau` are "
        "auto too; none: one block",
    )
    objects: int = option(
        1, "maximum number of objects per image, by repeated cuts (MaskCut)", ge=1
    )
    solver: Literal["auto", "krylov", "eigh", "scipy"] = option(
        "auto", "solver of the eigenproblem; scipy: as published"
    )


class ObjectDinoOptions(DiscoveryOptions):
    """Options of Object-DINO; see `gtacli.discovery.object_dino`."""

    heads: Annotated[tuple[str, ...], BeforeValidator(read_words)] = option(
        (),
        "heads whose keys are cut, as BLOCK.HEAD such as 10.1,11.0",
        shown="the cluster with most heads of the last block",
    )
    clusters: int = option(12, "number of clusters of heads", ge=1)
    tau: float | Literal["auto"] = option(
        "auto",
        "cosine similarity above which two patches are connected; auto: 0.2 for DINO's weights, "
        "for others the value with the best result on generated scenes",
    )
    eps: float = option(1e-5, "weight of all other edges", gt=0, lt=0.5)
    side: Literal["auto", "seed", "center"] = option(
        "auto", "part of the cut that is the object, as of TokenCut"
    )


class VoteOptions(DiscoveryOptions):
    """Options of back-ends that vote; see `gtacli.discovery.vote`."""

    layer: int | Literal["auto"] = option(  # type: ignore[assignment]  # a number once resolved
        "auto", "block that all members use, from the end if negative; auto: each its own"
    )
    members: Annotated[tuple[str, ...], BeforeValidator(read_words)] = option(
        ("tokencut", "found", "object-dino"),
        "back-ends that vote, each with its own `auto`",
        metavar="NAME,...",
    )
    settings: dict[str, dict[str, Any]] = option(
        dict, "options of the members, by name", flag=False
    )

    @field_validator("members")
    @classmethod
    def _check_members(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        if len({*members}) < max(2, len(members)):
            raise ValueError(f"must be two different back-ends or more, got {','.join(members)}")
        return members

    @model_validator(mode="after")
    def _check_settings(self) -> VoteOptions:
        for name in self.settings:
            if name not in self.members:
                raise ValueError(f"`settings` are for members of the vote, and {name} is none")
        return self


class LayerTauOptions(DiscoveryOptions):
    """Options of back-ends whose block and threshold depend on the network."""

    layer: int | Literal["auto"] = option(  # type: ignore[assignment]  # numbers once resolved
        "auto",
        "block that is used, from the end if negative; auto: -1 for DINO's weights, for others "
        "the block with the best result on generated scenes",
    )
    tau: float | Literal["auto"] = option(
        "auto",
        "cosine similarity above which two patches are alike; auto: as published for DINO's "
        "weights, for others chosen together with the block",
    )


class FoundOptions(LayerTauOptions):
    """Options of FOUND's background seed; see `gtacli.discovery.found`."""


class LostOptions(LayerTauOptions):
    """Options of LOST; see `gtacli.discovery.lost`."""

    k: Annotated[int, Field(ge=1)] | Literal["auto"] = option(
        "auto",
        "patches of lowest degree from which the seed is expanded; auto: 100 for DINO's weights, "
        "for others an eighth of all",
    )


class DinoOptions(DiscoveryOptions):
    """Options of DINO's attention maps; see `gtacli.discovery.dino`."""

    heads: Literal["max", "mean", "best"] = option(
        "max",
        "maximum or mean over the heads, or each image's head that agrees best with the others",
    )
    mass: float = option(0.6, "fraction of the attention inside the mask", gt=0, lt=1)


class GradCAMOptions(DiscoveryOptions):
    """Options of Grad-CAM; see `gtacli.discovery.gradcam`."""

    target_class: Literal["predicted"] | int = option(
        "predicted", "class index, or each image's predicted class"
    )
