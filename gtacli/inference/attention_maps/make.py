"""Make map extractors from the options of `gta attention-map`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gtacli.config.attention_map import SHORT, AttentionMapConfig, find_kind
from gtacli.config.base import StrictModel, build
from gtacli.discovery.build import make_backend
from gtacli.errors import UsageError
from gtacli.inference.attention_maps.base import MapMethod
from gtacli.inference.attention_maps.extractor import MapExtractor
from gtacli.inference.attention_maps.methods import BackendMaps
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.names import short_names
from gtacli.models.packed_linear import pack
from gtacli.models.register_search import with_registers
from gtacli.registry import MAPS
from gtacli.runtime.devices import Compute

log = logging.getLogger(__name__)
LACKS = {
    "layer": "reads all blocks; leave `layer` out",
    "heads": "has no heads",
    "target_class": "shows no class",
    "gamma": "has no gamma rule",
}
"""What is said of a kind without an option, by the option's key."""


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
        model.model.to(compute.device)
        if not find_kind(config.kind).load(config.kind).needs_gradients:
            pack(model.model, compute.dtype)
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
    model.model.eval().requires_grad_(False)
    mass = config.mass if config.style == "mask" else None
    kind, registry = config.kind, find_kind(config.kind)
    part = registry.load(kind)
    given = _given(config, part.Options, model)
    if registry is MAPS:
        options = _build(part.Options, {**config.maps.get(kind, {}), **given}, f"maps.{kind}")
        method: MapMethod = part(options, model, mass, config.style == "raw")
        return method
    if (isinstance(config.layer, tuple) and len(config.layer) > 1) or config.layer == "all":
        raise UsageError(f"`kind={kind}` reads one block", option="layer")
    return BackendMaps(make_backend(kind, {**given, **config.backend_options}, model), mass)


def _given(
    config: AttentionMapConfig, options: type[StrictModel], model: LoadedModel
) -> dict[str, Any]:
    """Return the given options of the kind that stand beside the command's own.

    Raises UsageError for one that the kind does not have.
    """
    given = {key: getattr(config, key) for key in SHORT if getattr(config, key) is not None}
    for key in given:
        if key not in options.model_fields:
            raise UsageError(f"`kind={config.kind}` {LACKS[key]}", option=key)
    if "target_class" in given:
        given["target_class"] = _class_number(given["target_class"], model)
    return given


def _build(options: type[StrictModel], values: Mapping[str, Any], table: str) -> StrictModel:
    """Build the options of a kind; an error names a key of `SHORT` as the command has it."""
    try:
        return build(options, values, table)
    except UsageError as error:
        key = (error.option or "").rpartition(".")[2]
        error.option = key if key in SHORT else error.option
        raise


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
