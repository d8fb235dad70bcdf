"""Resolve a model spec to an architecture and its weights.

A spec is a timm name (`vit_small_patch16_224.dino`), `hf-hub:...` or `local-dir:...`, a run folder
or its weights file, `ARCH@FILE`, `ARCH@none` for random weights, a name of the `gta.models`
registry, or `FAMILY:REST` of a family there; any of these with `+ADAPTER` behind it, a file or
folder of low-rank adapters, has them merged into its weights. A name takes precedence over a folder
of the same name in the working directory; `./demo` means the folder.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, cast

import timm
import torch

from gtacli.errors import GtaError, errors_about, reason_of_library
from gtacli.models import timm_blocks
from gtacli.models.adapters import merge_adapter
from gtacli.models.cached import cached_only
from gtacli.models.card import read_card
from gtacli.models.files import is_sharded, read_network
from gtacli.models.folders import describe_folder
from gtacli.models.foreign import described, has_width, of_other_program
from gtacli.models.hub import checked_files, read_hub_folder
from gtacli.models.pooling import ARGUMENTS, name_pool
from gtacli.models.sizes import build_without_memory, check_architecture
from gtacli.models.weights import Weights
from gtacli.registry import MODELS
from gtacli.runtime.fetching import may_fetch, require_fetching
from gtacli.runtime.paths import user_path
from gtacli.runtime.reachable import hub_cache, why_hub_unreachable, why_unreachable
from gtacli.runtime.run_files import WEIGHTS_FILE

log = logging.getLogger(__name__)


class ModelProvider(ABC):
    """Named weights: the base class of entries of the group `gta.models`.

    Attributes:
        help: one line for the list of models.
        pretrained: False if the weights are random.
    """

    help: ClassVar[str] = ""
    pretrained: ClassVar[bool] = True

    @abstractmethod
    def weights(self) -> Weights:
        """Return the architecture and its tensors."""


class ModelFamily(ModelProvider):
    """Base class of providers of many models with specs `FAMILY:REST` (`transformers:FOLDER`)."""

    usage: ClassVar[str]
    """The form of a spec, for messages."""

    @abstractmethod
    def open(self, rest: str) -> Weights:
        """Return the architecture and the tensors that `rest` names. Raises GtaError."""

    def weights(self) -> Weights:
        raise GtaError(f"the spec must name one model of the family: write {self.usage}")

    def write_example(self, folder: Path) -> str | None:
        """Write a small model into a folder, on which the conformance suite checks the family.

        Returns what stands behind `FAMILY:`; None: there is no example.
        """
        return None


@errors_about("model")
def resolve(spec: str) -> Weights:
    """Return the architecture and the weights that a model spec names.

    Raises GtaError for an unknown name and for weights that cannot be read.
    """
    hub = spec.startswith(("hf-hub:", "local-dir:"))  # here @ precedes a revision
    family, colon, rest = spec.partition(":")
    if colon and family in MODELS.names() and issubclass(MODELS.load(family), ModelFamily):
        return cast(ModelFamily, MODELS.load(family)()).open(rest)
    arch, at, file = spec.partition("@")
    if "+" in spec and not any(os.path.exists(user_path(p)) for p in (spec, file) if p):
        return _adapted(*spec.rsplit("+", 1))
    if at and not hub and not os.path.exists(spec):
        if file == "none":
            return Weights(arch, None, {}, spec)
        return _from_file(arch, file)
    if spec.startswith("local-dir:") and is_sharded(Path(spec[10:])):
        return _folder(Path(spec[10:]))  # of which timm would read one shard
    if hub or timm.is_model(spec.split(".")[0]):
        return _pretrained(spec)
    if spec in MODELS.names():
        return MODELS.load(spec)().weights()
    path = user_path(spec)
    if os.path.isdir(path) or (os.path.isfile(path) and describe_folder(path).card):
        return _folder(path)
    if os.path.isfile(path):
        if path.suffix == ".safetensors":
            network, metadata = read_network(path)
            if "architecture" in metadata:  # of a run
                return described(metadata["architecture"], network.tensors, metadata, spec)
        raise GtaError(f"{spec} is a weights file; name its architecture: ARCH@{spec}")
    if off := MODELS.switched_off(family):
        raise GtaError(off)
    if "/" in spec or "\\" in spec:
        raise GtaError(f"no folder {spec}")
    known = [*MODELS.names(), *timm.list_models()]
    close = get_close_matches(spec.split(".")[0], known, 1)
    hint = f"did you mean {close[0]!r}?" if close else "`gta models list` shows the names"
    raise GtaError(f"unknown name {spec!r}; {hint}")


@errors_about("model")
def resolve_architecture(spec: str) -> Weights:
    """Return the architecture that a model spec names, without its weights.

    Raises GtaError for an unknown name.
    """
    if timm.is_model(spec.split(".")[0]) and not os.path.isdir(spec):
        return Weights(spec, None, {}, spec)  # pretrained weights need not exist
    return replace(resolve(spec), tensors=None)


@errors_about("init", model="init")
def replace_weights(named: Weights, init: str) -> Weights:
    """Return the weights that `init` names for the architecture that a spec has named.

    Args:
        named: the resolved spec. Its `kwargs` stay if it has weights.
        init: a spec, or the path of a weights file. It determines the preprocessing.

    Raises GtaError (option "init") if `init` has no weights.
    """
    alone = os.path.isfile(user_path(init))
    start = resolve(f"{named.architecture}@{init}" if alone else init)
    if start.tensors is None:
        raise GtaError(f"{init} has no weights to start from")
    same = start.architecture.split(".")[0] == named.architecture.split(".")[0]
    if same and named.tensors is None:
        return start
    start = replace(start, pool=_pool_of(start))
    if same:
        return replace(start, kwargs=named.kwargs)
    return replace(
        start,
        architecture=named.architecture,
        kwargs=named.kwargs,
        pretrained_cfg=named.pretrained_cfg,
    )


def _pool_of(weights: Weights) -> str | None:
    """Return what the classifier of weights reads; None for an architecture that timm lacks."""
    if weights.card.pool is not None or not timm.is_model(weights.architecture.split(".")[0]):
        return weights.card.pool
    model = build_without_memory(weights.architecture, weights.kwargs or {}, weights.where)
    return name_pool(model)


def _adapted(spec: str, adapter: str) -> Weights:
    """Return the weights of a spec with an adapter merged into them."""
    weights = resolve(spec)
    if weights.tensors is None:
        raise GtaError(f"{spec} has no weights that the adapter {adapter} could change")
    names = timm.get_pretrained_cfg_value(weights.architecture, "classifier") or "head"
    classifier = (names,) if isinstance(names, str) else tuple(names)
    path = user_path(adapter)
    tensors, header = merge_adapter(weights.tensors, path, classifier, weights.metadata.get("pool"))
    log.info("%s: merged into %s", adapter, weights.where)
    ours = header.pop("architecture", None) is not None
    metadata, kwargs = {**weights.metadata, **header}, weights.kwargs
    if ours:  # then the header describes the features that its classifier reads
        own = read_card(header, adapter).kwargs
        kept = {k: v for k, v in (kwargs or {}).items() if k not in ARGUMENTS}
        kwargs = kept | {k: v for k, v in own.items() if k in ARGUMENTS}
        metadata["pool"] = header.get("pool", "")
    where = f"{weights.where}+{adapter}"
    return replace(weights, tensors=tensors, metadata=metadata, where=where, kwargs=kwargs)


def _from_file(arch: str, file: str) -> Weights:
    """Return the weights in a file, an index of shards or a folder for an architecture."""
    path = user_path(file)
    network, metadata = read_network(path, lambda shape: has_width(arch, shape))
    if "architecture" not in metadata:
        return of_other_program(arch, network, metadata, path, file)
    if metadata["architecture"].split(".")[0] != arch.split(".")[0]:
        return Weights(arch, network.tensors, metadata, file, {})
    return described(arch, network.tensors, metadata, file)


def _pretrained(spec: str) -> Weights:
    """Return timm's own weights at their native size, downloaded if necessary and allowed."""
    name = spec.split(".")[0]
    where, _, place = spec.partition(":")
    if not place:
        _check_tag(spec, name)
        check_architecture(name, {}, spec)
    own: dict[str, Any] = {}
    unreachable = _why_unreachable(spec) if may_fetch() and where != "local-dir" else None
    try:
        with ExitStack() as guards:
            if not may_fetch() or unreachable:
                guards.enter_context(cached_only())
            metadata = guards.enter_context(checked_files(spec))
            if place:  # a hub folder names its architecture and arguments in its config.json
                name, own = read_hub_folder(spec)
            native = timm.create_model(spec, pretrained=True)
    except GtaError:
        raise
    except Exception as e:  # timm and the hub raise many types
        if isinstance(e, FileNotFoundError) and where != "local-dir":
            require_fetching(f"{spec}, which is not cached here,")
        arch = "ARCH" if place else name  # behind hf-hub:NAME, @ precedes a revision
        if isinstance(e, FileNotFoundError) and unreachable:
            cache = Path(torch.hub.get_dir()) / "checkpoints" if _url(spec) else hub_cache()
            raise GtaError(
                f"the weights of {spec} could not be loaded: they are not in the cache, and "
                f"{unreachable}. Download them where there is a network, and copy them to {cache} "
                f"here, or name a file: {arch}@FILE"
            ) from e
        raise GtaError(
            f"the weights of {spec} could not be loaded ({reason_of_library(e)}). {arch}@FILE "
            f"reads them from a file, {arch}@none has random weights"
        ) from e
    timm_blocks.check(native)
    if not place:
        return Weights(spec, native.state_dict(), {}, spec)
    config = dict(cast(Any, native).pretrained_cfg)
    return Weights(name, native.state_dict(), metadata, spec, own, config)


def _why_unreachable(spec: str) -> str | None:
    """Return why the place of a spec's weights cannot be asked, as a clause; None if it can."""
    url = _url(spec)
    return why_unreachable(url) if url else why_hub_unreachable()


def _url(spec: str) -> str | None:
    """Return the URL of weights that are on no hub."""
    config = None if ":" in spec else timm.get_pretrained_cfg(spec)
    return str(config.url) if config is not None and config.url and not config.hf_hub_id else None


def _check_tag(spec: str, name: str) -> None:
    tag = spec.partition(".")[2]
    known = [m.partition(".")[2] for m in timm.list_pretrained(name + ".*")]
    if not tag and not known:
        raise GtaError(f"{name} has no pre-trained weights; {name}@none has random ones")
    if tag and tag not in known:
        raise GtaError(f"{name} has no weights {tag!r}; known: {', '.join(known) or 'none'}")


def _folder(path: Path) -> Weights:
    """Return the weights of a run folder, or of one that config.json describes."""
    file = path / WEIGHTS_FILE
    said = describe_folder(path)
    if not os.path.isfile(file) and not said.card and not said.kind:
        raise GtaError(f"{path} is not a run folder (it has no {WEIGHTS_FILE})")
    network, metadata = read_network(path)
    if "architecture" in metadata:
        return described(metadata["architecture"], network.tensors, metadata, str(file))
    name = said.card.architecture if said.card else None
    if name is None and said.kind:
        raise GtaError(
            f"{path} is a {said.kind} of transformers, whose config.json names no "
            f"architecture of timm; use ARCH@{path}"
        )
    if name is None:
        raise GtaError(f"{file} does not name its architecture; use ARCH@{file}")
    return of_other_program(name, network, metadata, path, str(path))
