"""Weights of other programs: converted to timm's layout, and described by what is beside them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from gtacli.errors import GtaError
from gtacli.models.card import read_card
from gtacli.models.channels import EMBEDDING, one_for_all, with_three_channels
from gtacli.models.folders import Description, describe_folder
from gtacli.models.layouts import ConvertedWeights, Layout
from gtacli.models.search import Network
from gtacli.models.sizes import build_without_memory, check_sizes
from gtacli.models.weights import Weights

log = logging.getLogger(__name__)
_ARCHITECTURE = re.compile(r"\w+(\.\w+)?")


def of_other_program(
    arch: str, network: Network[Tensor], header: Mapping[str, str], path: Path, file: str
) -> Weights:
    """Return weights of another program, converted to timm's layout if that is known."""
    where = f"{file} ({network.label})" if network.label else file
    said = describe_folder(path)
    meta = {**said.metadata, **header}
    layout = network.layout
    converted = ConvertedWeights(network.tensors, network.beside, {})
    if layout is not None:
        converted = layout.convert(network.tensors)
        if layout.caution:
            log.warning("%s: %s", file, layout.caution)
        if "mean" not in meta and _is_imagenet(layout, arch):
            meta["mean"] = ",".join(map(str, IMAGENET_DEFAULT_MEAN))
            meta["std"] = ",".join(map(str, IMAGENET_DEFAULT_STD))
    tensors = with_three_channels(converted.tensors, where)
    if tensors.get(EMBEDDING) is converted.tensors.get(EMBEDDING):
        _check_statistics(arch, meta, file)
    else:
        _set_gray_statistics(arch, meta, where)
    kwargs = {**_arguments(arch, said, tensors, where), **converted.kwargs}
    if "fc_norm.weight" in tensors and "norm.weight" not in tensors:
        kwargs["global_pool"] = "avg"  # timm's networks have this norm in the place of the other
    if "num_heads" in kwargs:
        log.info("%s: a network of %d heads", where, kwargs["num_heads"])
    name = layout.name if layout else "timm"
    return Weights(arch, tensors, meta, where, kwargs, layout=name, dropped=converted.dropped)


def _arguments(
    arch: str, said: Description, tensors: Mapping[str, Tensor], where: str
) -> dict[str, Any]:
    """Return what a config beside the weights says of the arguments of an architecture."""
    name = said.card.architecture if said.card else None
    if said.card and name and name.split(".")[0] == arch.split(".")[0]:
        shapes = {key: tuple(value.shape) for key, value in tensors.items()}
        check_sizes(arch, said.card, shapes, where)
        return dict(said.card.kwargs)
    if said.heads is not None and said.heads != _heads_of(arch):
        return {"num_heads": said.heads}
    return {}


def _is_imagenet(layout: Layout, arch: str) -> bool:
    """Return whether images of a layout's weights are normalized as ImageNet's.

    Of other weights than the published ones in a layout that others use as well, it is what timm's
    weights of the architecture say; a tag behind its name says by itself what applies.
    """
    if layout.imagenet or not layout.usual_imagenet:
        return layout.imagenet
    tags = () if "." in arch else timm.list_pretrained(f"{arch}.*")
    return any(_registered_mean(tag) == IMAGENET_DEFAULT_MEAN for tag in tags)


def _heads_of(arch: str) -> int | None:
    """Return the attention heads of an architecture, None for one that timm lacks."""
    if not timm.is_model(arch.split(".")[0]):
        return None
    blocks = getattr(build_without_memory(arch, {}, arch), "blocks", None)
    return getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None


def _set_gray_statistics(arch: str, meta: dict[str, str], where: str) -> None:
    """Give all channels one mean and one standard deviation (see `channels`)."""
    config = timm.get_pretrained_cfg(arch) if timm.is_model(arch.split(".")[0]) else None
    card = read_card(meta, where)
    own = (config.mean, config.std) if config else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    mean, std = card.mean or own[0], card.std or own[1]
    meta["mean"], meta["std"] = one_for_all(mean), one_for_all(std)
    log.warning(
        "%s is a network of one input channel, spread over three: exact for gray images normalized "
        "by mean %.3g and std %.3g",
        *(where, sum(mean) / 3, sum(std) / 3),
    )


def _check_statistics(arch: str, metadata: Mapping[str, str], file: str) -> None:
    """Warn if neither the file nor the architecture's tag determines the normalization."""
    name, _, tag = arch.partition(".")
    if tag or "mean" in metadata or "input_mean" in metadata:
        return
    tags = timm.list_pretrained(name + ".*")
    means = {t: _registered_mean(t) for t in tags}
    if len(set(means.values())) > 1:
        own = _registered_mean(name)
        other = next(t for t in tags if means[t] != own)
        log.warning(
            "%s does not name the normalization of its images; mean %s is assumed. Other weights "
            "of %s use another one: name their tag if it applies, such as %s@%s (mean %s)",
            *(file, _short(own), name, other, file, _short(means[other])),
        )


def _registered_mean(name: str) -> tuple[float, ...]:
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    return config.mean


def _short(mean: tuple[float, ...]) -> str:
    return ", ".join(f"{m:.3g}" for m in mean)


def has_width(arch: str, shape: tuple[int, ...]) -> bool:
    """Return whether a patch embedding of this shape has as many channels as an architecture."""
    if not timm.is_model(arch.split(".")[0]):
        return True
    return shape[:1] == (getattr(build_without_memory(arch, {}, arch), "embed_dim", None),)


def described(
    arch: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: str
) -> Weights:
    """Return weights whose header describes their architecture, if it describes these tensors."""
    if not _ARCHITECTURE.fullmatch(arch):
        raise GtaError(f"{file}: its header names no architecture of timm, but {arch[:60]!r}")
    card = read_card(metadata, file)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    check_sizes(arch, card, shapes, file)
    return Weights(arch, tensors, metadata, file, card.kwargs)
