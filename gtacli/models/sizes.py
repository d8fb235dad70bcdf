"""A check of the sizes that a model card describes against the tensors that came with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import is_model_in_modules
from torch import nn
from torch.overrides import TorchFunctionMode

from gtacli.errors import GtaError, reason_of_library
from gtacli.models import timm_blocks
from gtacli.models.card import ModelCard

Shapes = Mapping[str, tuple[int, ...]]
_BLOCK = re.compile(r"blocks\.(\d+)\.")


def check_sizes(architecture: str, card: ModelCard, shapes: Shapes, where: str) -> None:
    """Raise GtaError if a card describes another or a larger network than the tensors are of.

    The network is built without memory for its parameters.

    Args:
        architecture: timm's name.
        card: arguments and image size of the architecture.
        shapes: of the tensors in timm's layout, by name.
        where: name of the file in messages.
    """
    if not timm.is_model(architecture.split(".")[0]):
        return  # reported where the model is created
    blocks = len({found[1] for name in shapes if (found := _BLOCK.match(name))})
    depth = card.kwargs.get("depth")
    if depth is not None and depth != blocks:
        raise GtaError(f"{where}: it describes {depth} blocks (`depth`), but has {blocks}")
    kwargs = dict(card.kwargs)
    if card.image_size is not None:
        kwargs["img_size"] = card.image_size
    own = _own_shapes(architecture, kwargs, where)
    # Without a size in the card these are resized, as those of any file.
    free = {"pos_embed"} if "img_size" not in kwargs else set()
    free |= {"patch_embed.proj.weight"} if "patch_size" not in kwargs else set()
    for name, shape in own.items():
        if name in shapes and shapes[name] != shape and name not in free:
            text = f"describes {name} as {shape}, but has it as {shapes[name]}"
            raise GtaError(f"{where}: it {text}")
    absent = {name: shape for name, shape in own.items() if name not in shapes}
    _compare(_total(absent), shapes, where)


def check_count(architecture: str, kwargs: Mapping[str, Any], shapes: Shapes, where: str) -> None:
    """Raise GtaError if a network has more than twice the values of tensors with other names."""
    if timm.is_model(architecture.split(".")[0]):
        own = _own_shapes(architecture, kwargs, where)
        _compare(_total(own) - _total(shapes), shapes, where)


def check_architecture(architecture: str, kwargs: Mapping[str, Any], where: str) -> None:
    """Raise UsageError for a network whose attention cannot be extracted, before it has weights.

    timm's own files of ViTs are trusted to hold such networks: building one takes 0.3 s.
    """
    name = architecture.split(".")[0]
    if not is_model_in_modules(name, ("vision_transformer", "deit", "eva")):
        timm_blocks.check(build_without_memory(name, kwargs, where))


def _compare(missing: int, shapes: Shapes, where: str) -> None:
    """Raise GtaError if more parameters are missing than the tensors have values."""
    if missing > (held := _total(shapes)):
        raise GtaError(
            f"{where}: it describes {missing:,} parameters more than the {held:,} that it has"
        )


def build_without_memory(architecture: str, kwargs: Mapping[str, Any], where: str) -> nn.Module:
    """Return a network without a classifier whose parameters have shapes, but no values.

    Args:
        architecture: timm's name.
        kwargs: arguments of `timm.create_model`.
        where: name of their file in messages.

    Raises GtaError for arguments that do not fit.
    """
    given = {**kwargs, "num_classes": 0}
    try:
        with torch.device("meta"), _WithoutValues():
            return timm.create_model(architecture, pretrained=False, **given)
    except Exception as error:  # timm asserts, and raises many types for wrong arguments
        reason = reason_of_library(error)
        raise GtaError(
            f"{where}: {architecture} cannot be built as it describes ({reason})"
        ) from error


class _WithoutValues(TorchFunctionMode):
    """A mode in which initial values are not drawn: without memory they cost time alone."""

    _DRAWING = frozenset(
        ["uniform_", "normal_", "erfinv_", "clamp_", "mul_", "add_", "zero_", "fill_"]
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in self._DRAWING and args and args[0].is_meta:
            return args[0]
        if func is getattr(nn.init, name, None) and kwargs.get("tensor") is not None:
            return kwargs["tensor"]  # it would draw beneath this mode, and import the compiler
        return func(*args, **kwargs)


def _own_shapes(
    architecture: str, kwargs: Mapping[str, Any], where: str
) -> dict[str, tuple[int, ...]]:
    model = build_without_memory(architecture, kwargs, where)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _total(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())
