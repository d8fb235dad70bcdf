"""From a model spec to an architecture's name and its weights.

A spec is a timm name (`vit_small_patch16_224.dino`), `hf-hub:...` or `local-dir:...`, a run folder,
`ARCH@FILE`, `ARCH@none` for random weights, or a name of the `gta.models` registry. A name wins
over a folder of the same name in the working directory; `./demo` means the folder.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, cast

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import Tensor

from gtacli.errors import GtaError
from gtacli.models import timm_blocks
from gtacli.models.layouts import recognise
from gtacli.models.weights import read_weights
from gtacli.registry import MODELS
from gtacli.runtime.run_files import WEIGHTS_FILE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """An architecture's weights before they are put into a model.

    Attributes:
        architecture: timm's name of it.
        tensors: in timm's layout; None: stay random.
        metadata: what the file says of itself (mean, std, classes, ...; see `runs.metadata`).
        where: how to name the file in messages.
        kwargs: what `timm.create_model` needs beside the name.
        layout, dropped: as the file had it (see LoadReport).
    """

    architecture: str
    tensors: Mapping[str, Tensor] | None
    metadata: Mapping[str, str]
    where: str
    kwargs: Mapping[str, Any] | None = None
    pretrained_cfg: Mapping[str, Any] | None = None
    layout: str = "timm"
    dropped: tuple[str, ...] = ()


class ModelProvider(ABC):
    """Base of the entries of `gta.models`: weights under a name."""

    help: ClassVar[str] = ""
    pretrained: ClassVar[bool] = True
    """False where the weights stay random."""

    @abstractmethod
    def weights(self) -> Weights:
        """The architecture and its tensors."""


def resolve(spec: str) -> Weights:
    """The architecture and the weights that a model spec names.

    Raises GtaError for an unknown name and for weights that cannot be read.
    """
    hub = spec.startswith(("hf-hub:", "local-dir:"))  # whose @ is a revision
    arch, at, file = spec.partition("@")
    if at and not hub and not Path(spec).exists():
        if file == "none":
            return Weights(arch, None, {}, spec)
        tensors, metadata = read_weights(Path(file).expanduser())
        if "architecture" not in metadata:
            return _published(arch, tensors, metadata, file)
        same = metadata.get("architecture", "").split(".")[0] == arch.split(".")[0]
        kwargs = json.loads(metadata.get("kwargs", "{}")) if same else {}
        return Weights(arch, tensors, metadata, file, kwargs)
    if hub or timm.is_model(spec.split(".")[0]):
        return _pretrained(spec)
    if spec in MODELS.names():
        return MODELS.load(spec)().weights()
    path = Path(spec).expanduser()
    if path.is_dir():
        return _run_folder(path)
    if path.is_file():
        raise GtaError(f"model: {spec} is a weights file; say its architecture: ARCH@{spec}")
    if "/" in spec or "\\" in spec:
        raise GtaError(f"model: no folder {spec}")
    known = [*MODELS.names(), *timm.list_models()]
    close = get_close_matches(spec.split(".")[0], known, 1)
    hint = f"did you mean {close[0]!r}?" if close else "`gta models list` shows the names"
    raise GtaError(f"model: unknown name {spec!r}; {hint}")


def architecture_of(spec: str) -> Weights:
    """The architecture that a model spec names, without its weights.

    Raises GtaError for an unknown name.
    """
    if timm.is_model(spec.split(".")[0]) and not Path(spec).is_dir():
        return Weights(spec, None, {}, spec)  # its weights need not even be there
    return replace(resolve(spec), tensors=None)


def started_from(named: Weights, init: str) -> Weights:
    """Other weights for the architecture that a spec has named.

    Args:
        named: what the spec resolved to. What it needs beside its name stays, if it has weights.
        init: a spec, or a weights file alone. How images are prepared comes from here.

    Raises GtaError where there are no weights.
    """
    alone = Path(init).expanduser().is_file()
    try:
        start = resolve(f"{named.architecture}@{init}" if alone else init)
    except GtaError as e:
        raise GtaError(f"--init: {str(e).removeprefix('model: ')}") from e
    if start.tensors is None:
        raise GtaError(f"--init: {init} has no weights to start from")
    same = start.architecture.split(".")[0] == named.architecture.split(".")[0]
    if same and named.tensors is None:
        return start
    if same:
        return replace(start, kwargs=named.kwargs)
    return replace(
        start,
        architecture=named.architecture,
        kwargs=named.kwargs,
        pretrained_cfg=named.pretrained_cfg,
    )


def _published(
    arch: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: str
) -> Weights:
    """Weights from elsewhere, in timm's layout or one that can be converted to it."""
    part = metadata.get("part", "")
    layout = recognise(tensors, part)
    where = f"{file} ({part})" if part in ("teacher", "student") else file
    if layout is None:
        _check_statistics(arch, metadata, file)
        return Weights(arch, tensors, metadata, where)
    kept, dropped, kwargs = layout.convert(tensors)
    meta = dict(metadata)
    if layout.imagenet and "mean" not in meta:
        meta["mean"] = ",".join(map(str, IMAGENET_DEFAULT_MEAN))
        meta["std"] = ",".join(map(str, IMAGENET_DEFAULT_STD))
    else:
        _check_statistics(arch, metadata, file)
    if layout.caution:
        log.warning("%s: %s", file, layout.caution)
    return Weights(arch, kept, meta, where, kwargs, layout=layout.name, dropped=dropped)


def _check_statistics(arch: str, metadata: Mapping[str, str], file: str) -> None:
    """Warn where neither the file nor the architecture's name says how images are normalised."""
    name, _, tag = arch.partition(".")
    if tag or "mean" in metadata or "input_mean" in metadata:
        return
    tags = timm.list_pretrained(name + ".*")
    means = {t: timm.get_pretrained_cfg(t).mean for t in tags}
    if len(set(means.values())) > 1:
        own = timm.get_pretrained_cfg(name).mean
        other = next(t for t in tags if means[t] != own)
        log.warning(
            "%s does not say how its images were normalised; mean %s is assumed. Weights for %s "
            "exist with others: name theirs, such as %s@%s (mean %s)",
            *(file, _short(own), name, other, file, _short(means[other])),
        )


def _short(mean: tuple[float, ...]) -> str:
    return ", ".join(f"{m:.3g}" for m in mean)


def _pretrained(spec: str) -> Weights:
    """timm's own weights, at their native size; the network is asked at most here."""
    name = spec.split(".")[0]
    where, _, place = spec.partition(":")
    if not place:
        _check_tag(spec, name)
    own: dict[str, Any] = {}
    try:
        native = timm.create_model(spec, pretrained=True)
        if place:  # a hub folder names its architecture and arguments in its config.json
            read = load_model_config_from_hf if where == "hf-hub" else load_model_config_from_path
            _, name, own = read(place)
    except Exception as e:  # timm, the hub and the network fail in many ways; all mean the same
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise GtaError(
            f"model: the weights of {spec} could not be loaded ({reason[:200]}). "
            f"Offline? {name}@FILE takes them from a file, {name}@none starts at random"
        ) from e
    timm_blocks.check(native)
    if not place:
        return Weights(spec, native.state_dict(), {}, spec)
    config = dict(cast(Any, native).pretrained_cfg)
    return Weights(name, native.state_dict(), {}, spec, own, config)


def _check_tag(spec: str, name: str) -> None:
    tag = spec.partition(".")[2]
    known = [m.partition(".")[2] for m in timm.list_pretrained(name + ".*")]
    if not tag and not known:
        raise GtaError(f"model: {name} has no pre-trained weights; {name}@none starts at random")
    if tag and tag not in known:
        raise GtaError(f"model: {name} has no weights {tag!r}; known: {', '.join(known) or 'none'}")


def _run_folder(path: Path) -> Weights:
    file = path / WEIGHTS_FILE
    if not file.is_file():
        raise GtaError(f"model: {path} is no run folder (it has no {WEIGHTS_FILE})")
    tensors, metadata = read_weights(file)
    if "architecture" not in metadata:
        raise GtaError(f"model: {file} does not name its architecture; use ARCH@{file}")
    kwargs = json.loads(metadata.get("kwargs", "{}"))
    return Weights(metadata["architecture"], tensors, metadata, str(file), kwargs)
