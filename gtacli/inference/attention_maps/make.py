"""Make map extractors from the options of `gta attention-map`."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from gtacli.config.attention_map import RELEVANCE_KINDS, AttentionMapConfig
from gtacli.discovery.build import make_backend
from gtacli.errors import UsageError
from gtacli.inference.attention_maps.extractor import MapExtractor
from gtacli.inference.attention_maps.methods import (
    BackendMaps,
    ClassRelevance,
    ClsAttention,
    Heads,
    MapMethod,
    Rollout,
)
from gtacli.models.attnlrp import attnlrp
from gtacli.models.chefer import chefer
from gtacli.models.class_scores import TargetClass
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.names import short_names
from gtacli.models.packed_linear import pack
from gtacli.models.register_search import with_registers
from gtacli.runtime.devices import Compute

log = logging.getLogger(__name__)
WITHOUT_GRADIENTS = ("cls", "rollout", "tokencut", "dino", "found", "lost", "object-dino")


def make_extractors(
    config: AttentionMapConfig, specs: Sequence[str], compute: Compute
) -> list[MapExtractor]:
    """Return an extractor for each model spec, each with a short name.

    Raises GtaError for a model that cannot be loaded, and UsageError for a kind, block or head
    that it does not have.
    """
    extractors: list[MapExtractor] = []
    for spec, name in zip(specs, short_names(specs), strict=True):
        model = load_model(spec, image_size=config.image_size, any_size=not config.stretched)
        model = with_registers(model, config.registers, compute.device)
        method = make_method(config, model)
        identity = fingerprint(model.model)
        without_gradients = config.kind in WITHOUT_GRADIENTS and compute.device.type == "cpu"
        if without_gradients and compute.dtype == torch.float32:
            pack(model.model)
        extractors.append(
            MapExtractor(name, model, method, config.kind, config.stretched, identity)
        )
    sizes = {e.name: "{}x{}".format(*e.model.image_size) for e in extractors}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        log.warning("the models see images of different sizes (%s); `image_size` sets one", shown)
    return extractors


def make_method(config: AttentionMapConfig, model: LoadedModel) -> MapMethod:
    """Return the method that the option `kind` names, for a model."""
    network = model.model.eval().requires_grad_(False)
    mass = config.mass if config.style == "mask" else None
    if config.kind in ("cls", "rollout"):
        if config.layer == "auto":
            raise UsageError(
                "auto is for `kind=tokencut`, found and lost; give numbers, or all", option="layer"
            )
        layers = (-1,) if config.layer is None else config.layer
        if config.kind == "rollout":
            return Rollout(network, layers, config.heads or "mean", mass)
        heads: Heads = config.heads or "max"
        return ClsAttention(network, layers, heads, mass, together=config.style == "raw")
    if config.heads is not None:
        raise UsageError(
            f"`kind={config.kind}` has no heads; `kind=cls` and `kind=rollout` have", option="heads"
        )
    if config.kind in RELEVANCE_KINDS:
        return _make_relevance(config, model, mass)
    if (isinstance(config.layer, tuple) and len(config.layer) > 1) or config.layer == "all":
        raise UsageError(f"`kind={config.kind}` reads one block", option="layer")
    options: dict[str, Any] = config.backend_options
    if config.target_class is not None:
        options["target_class"] = _class_number(config.target_class, model)
    return BackendMaps(make_backend(config.kind, options, model), mass)


def _make_relevance(
    config: AttentionMapConfig, model: LoadedModel, mass: float | None
) -> ClassRelevance:
    if config.layer is not None:
        raise UsageError(
            f"`kind={config.kind}` reads all blocks; leave `layer` out", option="layer"
        )
    target: TargetClass = "predicted"
    if config.target_class is not None:
        target = _class_number(config.target_class, model)
    relevance = partial(attnlrp, gamma=config.gamma) if config.kind == "attnlrp" else chefer
    signed = config.style == "raw"
    return ClassRelevance(model.model, relevance, config.kind, target, mass, signed)


def _class_number(text: str, model: LoadedModel) -> int:
    if re.fullmatch(r"\d+", text):
        return int(text)
    if text in model.classes:
        return model.classes.index(text)
    known = ", ".join(model.classes[:5]) + (", …" if len(model.classes) > 5 else "")
    raise UsageError(
        f"{model.spec} has no class '{text}'"
        + (f"; it has {known}" if known else "; its classes have numbers only"),
        option="target_class",
    )
