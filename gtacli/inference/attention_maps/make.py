"""From options to the models that look."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gtacli.config.attention_map import AttentionMapConfig
from gtacli.discovery.build import make_backend
from gtacli.errors import UsageError
from gtacli.inference.attention_maps.extractor import Looker
from gtacli.inference.attention_maps.kinds import ClsAttention, Found, Heads, Kind, Rollout
from gtacli.models.frozen import pack
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.names import short_names
from gtacli.runtime.devices import Compute

WITHOUT_GRADIENTS = ("cls", "rollout", "tokencut", "dino")


def make_lookers(
    config: AttentionMapConfig, specs: Sequence[str], compute: Compute
) -> list[Looker]:
    """A looker for each model spec, with names of their own.

    Raises GtaError for a model that cannot be loaded, and UsageError for a kind, block or head
    that it has not.
    """
    lookers: list[Looker] = []
    for spec, name in zip(specs, short_names(specs), strict=True):
        model = load_model(spec, image_size=config.image_size, any_size=not config.stretched)
        kind = make_kind(config, model)
        if config.kind in WITHOUT_GRADIENTS and compute.device.type == "cpu":
            pack(model.model)
        lookers.append(Looker(name, model, kind, config.kind, config.stretched))
    return lookers


def make_kind(config: AttentionMapConfig, model: LoadedModel) -> Kind:
    """What `config.kind` names, of a model."""
    network = model.model.eval().requires_grad_(False)
    mass = config.mass if config.style == "mask" else None
    if config.kind in ("cls", "rollout"):
        if config.layer == "auto":
            raise UsageError("--layer: auto is for --kind tokencut; give numbers, or all")
        layers = (-1,) if config.layer is None else config.layer
        if config.kind == "rollout":
            return Rollout(network, layers, config.heads or "mean", mass)
        heads: Heads = config.heads or "max"
        return ClsAttention(network, layers, heads, mass, together=config.style == "raw")
    if config.heads is not None:
        raise UsageError(f"--heads: --kind {config.kind} has none; --kind cls and rollout have")
    if (isinstance(config.layer, tuple) and len(config.layer) > 1) or config.layer == "all":
        raise UsageError(f"--layer: --kind {config.kind} reads one block")
    options: dict[str, Any] = config.backend_options
    if config.target_class is not None:
        options["target_class"] = _class_number(config.target_class, model)
    return Found(make_backend(config.kind, options, model), mass)


def _class_number(text: str, model: LoadedModel) -> int:
    if re.fullmatch(r"\d+", text):
        return int(text)
    if text in model.classes:
        return model.classes.index(text)
    known = ", ".join(model.classes[:5]) + (", …" if len(model.classes) > 5 else "")
    raise UsageError(
        f"--target-class: {model.spec} has no class '{text}'"
        + (f"; it has {known}" if known else "; its classes have numbers only")
    )
