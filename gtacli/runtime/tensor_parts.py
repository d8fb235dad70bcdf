"""Tensors that processes share: each holds a part of the rows (`shard_model`).

They are torch's DTensors, recognized by what they offer: importing their package takes long, and
most runs have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn


def is_shared(value: object) -> bool:
    """Return whether a value is a tensor of which this process holds a part."""
    return isinstance(value, Tensor) and hasattr(value, "to_local")


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds; an ordinary tensor as it is."""
    return cast(Tensor, cast(Any, tensor).to_local()) if is_shared(tensor) else tensor


@torch.no_grad()
def gather_whole(value: Any, keep: bool = True) -> Any:
    """Return a tree of dictionaries, lists and tuples with its shared tensors whole, on the CPU.

    All processes call it with trees of the same keys. Tensors are gathered one after the other, so
    that a process never holds more than one of them beside its parts.

    Args:
        keep: whether this process needs the tensors; it gets None in their places otherwise.
    """
    if is_shared(value):
        whole = value.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: gather_whole(item, keep) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(gather_whole(item, keep) for item in value)
    return value


def part_like(whole: Any, like: Tensor) -> Any:
    """Return this process's part of a tensor, divided as `like` is.

    What is no whole tensor of this shape is returned as it is, and everything is where `like` is an
    ordinary tensor.
    """
    if not is_shared(like) or not isinstance(whole, Tensor) or whole.shape != like.shape:
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    shared = cast(DTensor, like)
    # Every process has the whole tensor, so nothing is sent.
    return distribute_tensor(whole, shared.device_mesh, shared.placements, src_data_rank=None)


def load_whole(module: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Load whole tensors into a module, whose own ones may be shared. Raises as torch does."""
    own = module.state_dict()
    parts = {k: part_like(v, own[k]) if k in own else v for k, v in tensors.items()}
    module.load_state_dict(parts)
