"""From a model spec to a ViT with its own preprocessing.

A spec is a timm name (`vit_small_patch16_224.dino`), `hf-hub:...` or `local-dir:...`, a run folder,
`ARCH@FILE`, `ARCH@none` for random weights, or a name of the `gta.models` registry. All of them
pass through the same door: the architecture at the wanted size, then `load_weights`.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, cast

import timm
import torch
from PIL import Image
from timm.data import resolve_model_data_config
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import Tensor, nn

from gtacli.errors import GtaError
from gtacli.models import timm_blocks
from gtacli.models.preprocessing import InputView, Preprocess
from gtacli.models.weights import LoadReport, head_prefixes, load_weights, read_weights
from gtacli.registry import MODELS

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Weights:
    """An architecture's weights before they are put into a model.

    Attributes:
        architecture: timm's name of it.
        tensors: in timm's layout; None: stay random.
        metadata: what the file says of itself (mean, std, classes, ...; see `runs.metadata`).
        where: how to name the file in messages.
        kwargs: what `timm.create_model` needs beside the name.
    """

    architecture: str
    tensors: Mapping[str, Tensor] | None
    metadata: Mapping[str, str]
    where: str
    kwargs: Mapping[str, Any] | None = None
    pretrained_cfg: Mapping[str, Any] | None = None


class ModelProvider(ABC):
    """Base of the entries of `gta.models`: weights under a name."""

    help: ClassVar[str] = ""

    @abstractmethod
    def weights(self) -> Weights:
        """The architecture and its tensors."""


@dataclass(frozen=True)
class LoadedModel:
    """A ViT in eval mode with what its inputs must look like.

    Attributes:
        model: the timm model.
        preprocess: PIL image -> normalised tensor (3, h, w).
        mean, std: of its normalisation, per channel, of values in 0..1.
        grid: patches (gh, gw).
        num_prefix_tokens: CLS and register tokens before the patches.
        report: what became of the weights file's tensors.
        architecture: timm's name.
        spec: how it was asked for.
        image_size: (h, w).
        interpolation: of its resize.
        crop_pct: share of the resized image that evaluation keeps.
        classes: names of the classes, where the weights came with them.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    grid: tuple[int, int]
    num_prefix_tokens: int
    report: LoadReport
    architecture: str
    spec: str
    image_size: tuple[int, int]
    interpolation: str
    crop_pct: float
    classes: tuple[str, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    @property
    def head(self) -> tuple[str, ...]:
        """Prefixes of the names of the classifier's parameters."""
        return head_prefixes(self.model)

    def view(self, device: torch.device) -> InputView:
        """What makes its input of a batch of pixels on `device`."""
        return InputView(self.image_size, self.mean, self.std, device)


def load_model(
    spec: str,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    partial_weights: bool = False,
) -> LoadedModel:
    """Load a ViT by its spec, in eval mode on the CPU.

    Args:
        spec: see the module's docstring.
        num_classes: width of the classifier, 0 for none; default: as the weights have it. Another
            number than the weights' gives a new classifier.
        image_size: side or (h, w) in pixels; position embeddings are resized. Default: the
            model's own.
        partial_weights: accept weights for less than 90 % of the backbone.

    Raises:
        GtaError: for an unknown name, weights that cannot be read or do not fit, or a size that
            the patches do not divide.
    """
    weights = _resolve(spec)
    meta = weights.metadata
    kwargs: dict[str, Any] = dict(weights.kwargs or {})
    if weights.pretrained_cfg is not None:
        kwargs["pretrained_cfg"] = dict(weights.pretrained_cfg)
    classes = tuple(json.loads(meta["classes"])) if "classes" in meta else ()
    if num_classes is None and weights.tensors is not None:
        num_classes = _classes_of(weights)
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    if image_size is None and "image_size" in meta:
        image_size = tuple(json.loads(meta["image_size"]))
    if image_size is not None:
        kwargs["img_size"] = image_size
    model = _create(weights.architecture, spec, kwargs)
    timm_blocks.check(model)
    report = LoadReport()
    if weights.tensors is not None:
        grid = _grid_of(weights)
        report = load_weights(model, weights.tensors, weights.where, partial_weights, grid)
        log.info("%s: %s", weights.where, report)
        if report.missing:
            log.warning("%s has no %s", weights.where, ", ".join(report.missing[:3]))
    size = cast(Any, model).patch_embed.img_size
    _check_size(model, size, spec)
    config = resolve_model_data_config(model)
    mean = _floats(meta.get("mean") or meta.get("input_mean")) or tuple(config["mean"])
    std = _floats(meta.get("std") or meta.get("input_std")) or tuple(config["std"])
    interpolation = meta.get("interpolation") or config["interpolation"]
    crop_pct = float(meta.get("crop_pct") or config["crop_pct"])
    width = getattr(model, "num_classes", 0)
    return LoadedModel(
        model=model.eval(),
        preprocess=Preprocess(tuple(size), mean, std, interpolation, crop_pct),
        mean=mean,
        std=std,
        grid=timm_blocks.grid(model, tuple(size)),
        num_prefix_tokens=int(cast(Any, model).num_prefix_tokens),
        report=report,
        architecture=weights.architecture,
        spec=spec,
        image_size=tuple(size),
        interpolation=interpolation,
        crop_pct=crop_pct,
        classes=classes if len(classes) == width else (),
        kwargs=weights.kwargs,
    )


def _classes_of(weights: Weights) -> int:
    """Width of the classifier that the weights bring, 0 without one."""
    assert weights.tensors is not None
    names = timm.get_pretrained_cfg_value(weights.architecture, "classifier") or "head"
    head = weights.tensors.get(f"{names if isinstance(names, str) else names[0]}.weight")
    return 0 if head is None else head.shape[0]


def _grid_of(weights: Weights) -> tuple[int, int] | None:
    """(gh, gw) of the weights' position embeddings, where their file says for which images."""
    assert weights.tensors is not None
    patch = weights.tensors.get("patch_embed.proj.weight")
    if patch is None or "image_size" not in weights.metadata:
        return None
    h, w = json.loads(weights.metadata["image_size"])
    return h // patch.shape[-2], w // patch.shape[-1]


def _check_size(model: nn.Module, size: tuple[int, int], spec: str) -> None:
    """timm would cut off the last pixels of a size that the patches do not divide."""
    patch = cast(Any, model).patch_embed.patch_size
    if any(s % p for s, p in zip(size, patch, strict=True)):
        near = [max(p, round(s / p) * p) for s, p in zip(size, patch, strict=True)]
        raise GtaError(
            f"--image-size: {size[0]}x{size[1]} is no multiple of the patch size "
            f"{patch[0]}x{patch[1]} of {spec}; {near[0]}x{near[1]} is"
        )


def _floats(text: str | None) -> tuple[float, ...]:
    return tuple(float(x) for x in text.strip("[]").split(",")) if text else ()


def _resolve(spec: str) -> Weights:
    hub = spec.startswith(("hf-hub:", "local-dir:"))  # whose @ is a revision
    arch, at, file = spec.partition("@")
    if at and not hub and not Path(spec).exists():
        if file == "none":
            return Weights(arch, None, {}, spec)
        tensors, metadata = read_weights(Path(file).expanduser())
        same = metadata.get("architecture", "").split(".")[0] == arch.split(".")[0]
        kwargs = json.loads(metadata.get("kwargs", "{}")) if same else {}
        return Weights(arch, tensors, metadata, file, kwargs)
    if hub or timm.is_model(spec.split(".")[0]):
        return _pretrained(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _run_folder(path)
    if path.is_file():
        raise GtaError(f"model: {spec} is a weights file; say its architecture: ARCH@{spec}")
    if spec in MODELS.names():
        return MODELS.load(spec)().weights()
    if "/" in spec or "\\" in spec:
        raise GtaError(f"model: no folder {spec}")
    known = [*MODELS.names(), *timm.list_models()]
    close = get_close_matches(spec.split(".")[0], known, 1)
    hint = f"did you mean {close[0]!r}?" if close else "`gta models list` shows the names"
    raise GtaError(f"model: unknown name {spec!r}; {hint}")


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


def _create(architecture: str, spec: str, kwargs: dict[str, Any]) -> nn.Module:
    name = architecture.split(".")[0]
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise GtaError(f"model: unknown architecture {name!r} in {spec!r}{hint}")
    try:
        return cast(nn.Module, timm.create_model(architecture, pretrained=False, **kwargs))
    except TypeError as e:
        # Architectures without an image size (convolutional ones) refuse the keyword.
        model = timm.create_model(architecture, pretrained=False, num_classes=0)
        timm_blocks.check(model)
        raise GtaError(f"model: {architecture} cannot be built: {e}") from e
    except (AssertionError, ValueError, RuntimeError) as e:
        raise GtaError(
            f"model: {architecture} cannot be built at {kwargs.get('img_size')} px: {e}"
        ) from e
