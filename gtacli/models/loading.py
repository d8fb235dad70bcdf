"""From a model spec to a ViT with its own preprocessing.

All specs (see `specs`) pass through the same door: the architecture at the wanted size, then
`load_weights`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, cast

import timm
import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from gtacli.errors import GtaError
from gtacli.images.preprocessing import InputView, Preprocess
from gtacli.models import positions, timm_blocks
from gtacli.models.specs import Weights, architecture_of, resolve, started_from
from gtacli.models.weights import LoadReport, head_prefixes, load_weights

log = logging.getLogger(__name__)


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
    drop_path: float = 0.0,
    init: str | None = None,
    any_size: bool = False,
    untrained: bool = False,
    patch_size: int | None = None,
) -> LoadedModel:
    """Load a ViT by its spec, in eval mode on the CPU.

    Args:
        spec: see `specs`.
        num_classes: width of the classifier, 0 for none; default: as the weights have it. Another
            number than the weights' gives a new classifier.
        image_size: side or (h, w) in pixels; position embeddings are resized. Default: the
            model's own.
        partial_weights: accept weights for less than 90 % of the backbone.
        drop_path: probability that the last block is skipped in training, rising to it from 0 at
            the first; how a network is trained, so not kept in `LoadedModel.kwargs`.
        init: take the weights of this spec or file instead of the spec's own.
        any_size: the model takes images of any size of whole patches, each batch its own, and
            resizes position embeddings as it goes; like `drop_path` not kept.

        untrained: take the architecture alone; the weights are random, or those of `init`.
        patch_size: side of the patches; patch embeddings are resampled. Default: the model's own.

    Raises:
        GtaError: for an unknown name, weights that cannot be read or do not fit, or a size that
            the patches do not divide.
    """
    weights = named = architecture_of(spec) if untrained else resolve(spec)
    if init is not None:
        weights = started_from(named, init)
    meta = weights.metadata
    kwargs: dict[str, Any] = dict(weights.kwargs or {})
    if weights.pretrained_cfg is not None:
        kwargs["pretrained_cfg"] = dict(weights.pretrained_cfg)
    classes = tuple(json.loads(meta["classes"])) if "classes" in meta else ()
    if num_classes is None and weights.tensors is not None:
        num_classes = _classes_of(weights)
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    if image_size is None and "image_size" in named.metadata:
        image_size = tuple(json.loads(named.metadata["image_size"]))
    if image_size is not None:
        kwargs["img_size"] = image_size
    own = dict(weights.kwargs or {})
    if patch_size is not None:
        own["patch_size"] = kwargs["patch_size"] = patch_size
    if drop_path:
        kwargs["drop_path_rate"] = drop_path
    if any_size:
        kwargs["dynamic_img_size"] = True
    model = _create(weights.architecture, spec, kwargs)
    timm_blocks.check(model)
    report = LoadReport()
    if weights.tensors is not None:
        report = _fill(model, weights, partial_weights)
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
        kwargs=own,
    )


def _fill(model: nn.Module, weights: Weights, partial: bool) -> LoadReport:
    assert weights.tensors is not None
    foreign = weights.layout != "timm"
    where = f"{weights.where} (read as {weights.layout})" if foreign else weights.where
    tag = cast(Any, model).pretrained_cfg.get("tag") or ""
    way = positions.way_of(model, weights.layout, tag)
    positions.mark(model, way)
    report = load_weights(model, weights.tensors, where, partial, _grid_of(weights), way)
    report = replace(report, layout=weights.layout, dropped=weights.dropped)
    log.info("%s: %s", weights.where, report)
    if report.missing:
        log.warning("%s has no %s", weights.where, ", ".join(report.missing[:3]))
    extra = [n for n in report.unexpected if not n.startswith(head_prefixes(model))]
    if extra:
        # Registers, LayerScale, a norm before the blocks: without them the features are others.
        what = f"{where} has {len(extra)} tensors that {weights.architecture} has not"
        what += f" ({', '.join(extra[:3])}{', …' if len(extra) > 3 else ''})"
        if foreign and not partial:
            raise GtaError(
                f"weights: {what}. Is it for another architecture? --partial-weights loads it "
                "all the same"
            )
        log.warning("%s", what)
    return report


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
