"""The `train` option: which parameters of the target learn, and a source that shares the others.

    all         every parameter
    head        the classifier, which learns with every choice
    norm+bias   norms, biases and LayerScale (BitFit, Zaken et al., arXiv 2106.10199)
    lora[:R]    low-rank adapters on the linear layers of all blocks (`models.lora`)

A source that starts as the target does shares every tensor that does not learn, so that GTA with
adapters needs the memory of one network.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from torch import nn

from gtacli.errors import UsageError
from gtacli.models.loading import LoadedModel
from gtacli.models.lora import add_adapters, default_rank
from gtacli.regularizers.base import Regularizer

log = logging.getLogger(__name__)


def freeze(target: LoadedModel, train: str) -> None:
    """Let only the chosen parameters of a network without adapters require gradients."""
    if train == "all":
        return
    for name, parameter in target.model.named_parameters():
        chosen = name.startswith(target.head) or (train == "norm+bias" and parameter.ndim == 1)
        parameter.requires_grad_(parameter.requires_grad and chosen)


def adapt(target: LoadedModel, train: str, seed: int) -> None:
    """Add adapters, if they are what learns, and log how many parameters do.

    Raises UsageError for a rank larger than a layer.
    """
    if train == "all":
        return
    what = ""
    kind, _, given = train.partition(":")
    if kind == "lora":
        rank = int(given) if given else default_rank(target.model)
        add_adapters(target.model, rank, seed)
        what = f" (rank {rank})"
    learning, every = count_learning(target.model), count(target.model.parameters())
    share = 100 * learning / every
    log.info("`train=%s`%s: %d parameters learn, %.2f %%", train, what, learning, share)


def copy_source(model: nn.Module) -> nn.Module:
    """Copy a network before it learns; the copy shares the parameters that will not."""
    frozen: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
    return deepcopy(model, frozen)


def shares_weights(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have a parameter in common."""
    return not {*map(id, one.parameters())}.isdisjoint(map(id, other.parameters()))


def without_idle(
    train: str, options: Mapping[str, Any], classes: Mapping[str, type[Regularizer[Any]]]
) -> dict[str, Any]:
    """Return the options of the regularizers that have something to act on.

    With `train=head` the backbone's attention and features cannot change.
    """
    if train != "head":
        return dict(options)
    idle = [name for name in options if not classes[name].reaches_head]
    if idle:
        log.info("`train=head`: the backbone does not change, so %s is not used", ", ".join(idle))
    return {name: value for name, value in options.items() if name not in idle}


def require_learning_backbone(train: str, option: str) -> None:
    """Raise UsageError about an option that needs a backbone that learns."""
    if train == "head":
        text = "has nothing to act on: with `train=head` only the classifier learns"
        raise UsageError(text, option=option)


def count_learning(model: nn.Module) -> int:
    """Count the numbers in the parameters that learn."""
    return count(p for p in model.parameters() if p.requires_grad)


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Count the numbers in parameters."""
    return sum(p.numel() for p in parameters)
