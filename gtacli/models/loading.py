"""Load a ViT with its own preprocessing from a model spec.

Every spec (see `specs`) is loaded in the same way: the architecture is created at the wanted size,
then `load_weights` fills it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import timm
import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from gtacli.errors import GtaError, UsageError, errors_about, reason_of_library
from gtacli.images.preprocessing import InputView, Preprocess
from gtacli.models import positions, timm_blocks
from gtacli.models.card import ModelCard
from gtacli.models.pooling import ClassifierPool, name_pool, set_pool
from gtacli.models.specs import replace_weights, resolve, resolve_architecture
from gtacli.models.weights import LoadReport, Weights, head_prefixes, is_of_backbone, load_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A ViT in eval mode with the preprocessing that its inputs need.

    Attributes:
        model: the timm model.
        preprocess: converts a PIL image into a normalized tensor (3, h, w).
        mean, std: of the normalization, per channel, for values in 0..1.
        grid: patches (gh, gw).
        num_prefix_tokens: CLS and register tokens before the patches.
        report: which tensors of the weights file were loaded.
        architecture: timm's name.
        spec: the spec that the model was loaded from.
        image_size: (h, w).
        interpolation: of the resize.
        crop_pct: fraction of the resized image that evaluation keeps.
        classes: names of the classes, if the weights file names them.
        kwargs: arguments of `timm.create_model` beside the name, as saved with the weights.
        multi_label: whether an image has any number of the classes: the probability of each is the
            sigmoid of its logit, else they are the softmax of all.
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
    multi_label: bool = False

    @property
    def head(self) -> tuple[str, ...]:
        """Return the prefixes of the classifier's parameter names."""
        return head_prefixes(self.model)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits (..., K): of one class, or of each by itself."""
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)

    def view(self, device: torch.device) -> InputView:
        """Return the transform from batches of pixels on `device` to inputs of the model."""
        return InputView(self.image_size, self.mean, self.std, device)


def load_folder(folder: Path, image_size: int | tuple[int, int] | None = None) -> LoadedModel:
    """Load the model of a run's folder, which may be called as a model of the registry is."""
    return load_model(str(folder.absolute()), image_size=image_size)


def load_model(
    spec: str,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    partial_weights: bool | None = None,
    drop_path: float = 0.0,
    init: str | None = None,
    any_size: bool = False,
    untrained: bool = False,
    patch_size: int | None = None,
    pool: ClassifierPool | None = None,
) -> LoadedModel:
    """Load a ViT by its spec, in eval mode on the CPU.

    Args:
        spec: see `specs`.
        num_classes: width of the classifier, 0 for none; default: the weights' own. Any other
            number gives a new classifier.
        image_size: side or (h, w) in pixels; position embeddings are resized. Default: the
            model's own.
        partial_weights: accept weights for 50 % to 90 % of the backbone. None: refuse them, and do
            not name this option, which not all commands have.
        drop_path: probability that the last block is skipped in training; it rises linearly from
            0 at the first block. Not saved in `LoadedModel.kwargs`.
        init: take the weights of this spec or file instead of the spec's own.
        any_size: accept batches of any size that is a multiple of the patch size; position
            embeddings are resized for each batch. Not saved either.
        untrained: use the architecture alone; the weights are random, or those of `init`.
        patch_size: side of the patches; patch embeddings are resampled. Default: the model's own.
        pool: the features that the classifier reads, see `pooling`. Default: the model's own. A
            classifier of the weights that reads others is replaced by a new one.

    Raises:
        GtaError: for an unknown name, weights that cannot be read or do not fit (option "model" or
            "init"), a size that is not a multiple of the patch size (option "image_size"), or
            features that the model does not have (option "pool").
    """
    with errors_about("model"):
        named = resolve_architecture(spec) if untrained else resolve(spec)
        weights = named if init is None else replace_weights(named, init)
        _check_known(weights.architecture, spec)
        saved = dict(weights.kwargs or {})
        if patch_size is not None:
            saved["patch_size"] = patch_size
        kwargs = {**saved, **_arguments(weights, num_classes, image_size, named.card)}
        if drop_path:
            kwargs["drop_path_rate"] = drop_path
        if any_size:
            kwargs["dynamic_img_size"] = True
        model = _create(weights.architecture, spec, kwargs)
        timm_blocks.check(model)
        described = weights if weights.pool is None else named
        theirs = weights.pool or described.card.pool or name_pool(model)
        saved |= _set_pool(model, described, pool)
        weights = _without_other_head(model, weights, theirs)
        with errors_about("model" if init is None else "init"):
            report = _fill(model, weights, partial_weights)
        _check_size(model, spec)
    return _loaded(model, weights, report, spec, saved)


def _arguments(
    weights: Weights,
    num_classes: int | None,
    image_size: int | tuple[int, int] | None,
    card: ModelCard,
) -> dict[str, Any]:
    """Return arguments of `timm.create_model` that depend on the weights and the wanted size."""
    kwargs: dict[str, Any] = {}
    if weights.pretrained_cfg is not None:
        kwargs["pretrained_cfg"] = dict(weights.pretrained_cfg)
    if num_classes is None and weights.tensors is not None:
        num_classes = _classes_of(weights)
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    image_size = image_size or card.test_size or card.image_size
    if image_size is not None:
        kwargs["img_size"] = image_size
    return kwargs


def _set_pool(model: nn.Module, weights: Weights, pool: ClassifierPool | None) -> Mapping[str, Any]:
    """Let the classifier read the wanted features, or those that a header says.

    Returns: see `set_pool`.
    """
    if pool is not None:
        return set_pool(model, pool)
    if weights.card.pool is not None:
        try:
            set_pool(model, weights.card.pool)
        except UsageError as error:
            reason = error.message.partition(";")[0]
            text = f"its header says that the classifier reads {weights.card.pool}, but {reason}"
            raise GtaError(f"{weights.where}: {text}") from None
    return {}


def _without_other_head(model: nn.Module, weights: Weights, theirs: str) -> Weights:
    """Leave the weights' classifier out if the model's reads other features than `theirs`."""
    ours, heads = name_pool(model), head_prefixes(model)
    if weights.tensors is None or theirs == ours:
        return weights
    kept = {name: value for name, value in weights.tensors.items() if not name.startswith(heads)}
    if len(kept) < len(weights.tensors) and cast(Any, model).num_classes:
        log.info(
            "new classifier: that of %s reads %s, not %s (`pool`)", weights.where, theirs, ours
        )
    return replace(weights, tensors=kept)


def _loaded(
    model: nn.Module, weights: Weights, report: LoadReport, spec: str, saved: Mapping[str, Any]
) -> LoadedModel:
    card = weights.card
    size = tuple(cast(Any, model).patch_embed.img_size)
    config = resolve_model_data_config(model)
    mean, std = card.mean or tuple(config["mean"]), card.std or tuple(config["std"])
    interpolation = card.interpolation or config["interpolation"]
    crop_pct = card.crop_pct or float(config["crop_pct"])
    classes = card.classes
    return LoadedModel(
        model=model.eval(),
        preprocess=Preprocess(size, mean, std, interpolation, crop_pct),
        mean=mean,
        std=std,
        grid=timm_blocks.grid(model, size),
        num_prefix_tokens=int(cast(Any, model).num_prefix_tokens),
        report=report,
        architecture=weights.architecture,
        spec=spec,
        image_size=size,
        interpolation=interpolation,
        crop_pct=crop_pct,
        classes=classes if len(classes) == getattr(model, "num_classes", 0) else (),
        kwargs=saved,
        multi_label=card.multi_label,
    )


def _fill(model: nn.Module, weights: Weights, partial: bool | None) -> LoadReport:
    """Load the weights into the model; report and check what became of every tensor."""
    if weights.tensors is None:
        return LoadReport()
    foreign = weights.layout != "timm"
    where = f"{weights.where} (read as {weights.layout})" if foreign else weights.where
    tag = cast(Any, model).pretrained_cfg.get("tag") or ""
    method = positions.resize_method(model, weights.layout, tag)
    positions.set_resize_method(model, method)
    report = load_weights(model, weights.tensors, where, partial, _grid_of(weights), method)
    report = replace(report, layout=weights.layout, dropped=weights.dropped)
    log.info("%s: %s", weights.where, report)
    if report.missing:
        log.warning("%s has no %s", weights.where, ", ".join(report.missing[:3]))
    extra = [n for n in report.unexpected if not n.startswith(head_prefixes(model))]
    if extra:
        # Registers, LayerScale, a norm before the blocks: without them the features differ. Others
        # of an unknown layout may belong to something else, such as a loss.
        what = f"{where} has {len(extra)} tensors that {weights.architecture} does not have"
        what += f" ({', '.join(extra[:3])}{', …' if len(extra) > 3 else ''})"
        if not partial and (foreign or any(is_of_backbone(n) for n in extra)):
            way_out = "" if partial is None else ", or set `partial_weights`"
            raise GtaError(f"{what}; name the right architecture{way_out}")
        log.warning("%s", what)
    return report


def _classes_of(weights: Weights) -> int:
    """Return the width of the classifier in the weights, 0 without one."""
    assert weights.tensors is not None
    names = timm.get_pretrained_cfg_value(weights.architecture, "classifier") or "head"
    head = weights.tensors.get(f"{names if isinstance(names, str) else names[0]}.weight")
    return 0 if head is None else head.shape[0]


def _grid_of(weights: Weights) -> tuple[int, int] | None:
    """Return the grid (gh, gw) of the weights' position embeddings if the file has a size."""
    assert weights.tensors is not None
    patch = weights.tensors.get("patch_embed.proj.weight")
    if patch is None or (size := weights.card.image_size) is None:
        return None
    h, w = size
    return h // patch.shape[-2], w // patch.shape[-1]


def _check_size(model: nn.Module, spec: str) -> None:
    """Raise GtaError for a size that is not a multiple of the patch size; timm would crop it."""
    embed = cast(Any, model).patch_embed
    size, patch = embed.img_size, embed.patch_size
    if any(s % p for s, p in zip(size, patch, strict=True)):
        near = [max(p, round(s / p) * p) for s, p in zip(size, patch, strict=True)]
        raise GtaError(
            f"{size[0]}x{size[1]} is not a multiple of the patch size {patch[0]}x{patch[1]} of "
            f"{spec}; {near[0]}x{near[1]} is",
            option="image_size",
        )


def _check_known(architecture: str, spec: str) -> None:
    """Raise GtaError for a name that timm does not have."""
    name = architecture.split(".")[0][:80]
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise GtaError(f"unknown architecture {name!r} in {spec!r}{hint}")


def _create(architecture: str, spec: str, kwargs: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(architecture, pretrained=False, **kwargs)
    except TypeError as e:
        # Architectures without an image size (convolutional ones) reject the keyword.
        model = timm.create_model(architecture, pretrained=False, num_classes=0)
        timm_blocks.check(model)
        raise GtaError(f"{architecture} cannot be built: {reason_of_library(e)}") from e
    except (AssertionError, ValueError, RuntimeError) as e:
        size, reason = kwargs.get("img_size"), reason_of_library(e)
        raise GtaError(f"{architecture} cannot be built at {size} px: {reason}") from e
