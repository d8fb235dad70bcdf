"""The frozen source of a fine-tuning: which network it is, and how the steps read it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import torch

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError, errors_about
from gtacli.finetuning.trainable import copy_source, shares_weights
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.packed_linear import pack, packed_copy
from gtacli.models.register_search import with_registers
from gtacli.models.tap import has_cls
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import Processes
from gtacli.training.sharding import is_sharded

log = logging.getLogger(__name__)


def load_source(
    config: FinetuneConfig, target: LoadedModel, device: torch.device, keeps: str | None
) -> LoadedModel:
    """Load the frozen source; its test-time registers are searched on `device`.

    The target has none, so the tap leaves them out of the source's values.

    Args:
        keeps: the regularizer that needs the classifier of the source's weights, if one does.
    """
    source = _load_bare_source(config, target, keeps is not None)
    if keeps is not None:
        _require_classifier(source, keeps)
    return with_registers(source, config.source_registers, device, True, "source_registers")


def _require_classifier(source: LoadedModel, regularizer: str) -> None:
    """Raise UsageError unless the classifier of a source was loaded with its weights."""
    loaded = (*source.report.loaded, *source.report.resized)
    if not any(name.startswith(source.head) for name in loaded):
        raise UsageError(
            f"{source.spec} has no classifier, whose predictions {regularizer} needs",
            option="source",
        )


def _load_bare_source(
    config: FinetuneConfig, target: LoadedModel, classifier: bool = False
) -> LoadedModel:
    """Load the frozen source: by default the model with its own pretrained weights.

    It equals the target before the first step, unless that starts from other weights.

    Args:
        classifier: keep that of the weights; the target has one for the dataset's classes.
    """
    size = config.source_size or target.image_size
    spec = config.source or config.model
    assert spec is not None
    itself = _starts_from(config, spec)
    if spec == config.model and itself and size == target.image_size and not classifier:
        return replace(target, model=copy_source(target.model))
    init = config.init if spec == config.model and itself else None
    with errors_about(image_size="source_size", model="source" if config.source else "model"):
        classes = None if classifier else 0
        source = load_model(spec, classes, size, config.partial_weights, init=init)
    if _make(source) != _make(target):
        log.warning(
            "`source` is of another make than the model (%s, not %s): attention passed from one "
            "architecture to another is reported to cost accuracy; without `source` the model's "
            "own start is kept",
            *(source.architecture, target.architecture),
        )
    return source


def _starts_from(config: FinetuneConfig, spec: str) -> bool:
    """Return whether the model, if `spec` is its own, has the weights of the source.

    A model without weights of its own is represented by those that it starts from.
    """
    return config.init is None or (config.source is None and spec.endswith("@none"))


def is_own_start(config: FinetuneConfig) -> bool:
    """Return whether the source is the model as it starts, at the same size."""
    spec = config.source or config.model
    assert spec is not None
    plain = config.source_size in (None, config.image_size) and config.source_registers == "none"
    return spec == config.model and _starts_from(config, spec) and plain


def _make(model: LoadedModel) -> tuple[str, int, int]:
    """Return what tells an architecture from another: its name, depth and width."""
    network = cast(Any, model.model)
    return model.architecture.split(".")[0], len(network.blocks), network.embed_dim


def pack_source(
    config: FinetuneConfig,
    target: LoadedModel,
    source: LoadedModel | None,
    compute: Compute,
    processes: Processes,
) -> LoadedModel | None:
    """Pack the source's weights, once nothing else is read of them; return the steps' source.

    Where frozen networks are read in another precision, that one is a copy: the drift, measured
    with the first one, would otherwise be a distance of rounding errors where there is little.
    """
    if source is None or config.compile:  # Inductor fuses by itself, and cannot trace packed ones
        return source
    if is_sharded(config, processes):  # packed weights cannot be divided
        return source
    shared, steps = shares_weights(source.model, target.model), source
    if compute.frozen.dtype != compute.dtype:
        if shared:  # not copied: autocast rounds the layers' weights, which fp32's kernels keep
            return source
        steps = replace(source, model=packed_copy(source.model, compute.frozen.dtype))
        log.info("the source is read in %s in each step", compute.frozen.precision)
    pack(source.model, compute.dtype, shared)
    return steps


def is_comparable(target: LoadedModel, source: LoadedModel) -> bool:
    """Return whether the drift can be measured: both networks have CLS rows in as many blocks."""
    ours, theirs = (len(cast(Any, m.model).blocks) for m in (target, source))
    if ours != theirs:
        reason = f"the model has {ours} blocks, the source {theirs}"
    elif not (has_cls(target.model) and has_cls(source.model)):
        reason = "this model has no CLS token, so it has no CLS row"
    else:
        return True
    log.warning("attention_drift is not measured: %s", reason)
    return False
