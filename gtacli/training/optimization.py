"""The optimizer and the learning-rate schedule, from timm's factories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from gtacli.config.base import build
from gtacli.errors import UsageError
from gtacli.models.lora import is_factor
from gtacli.registry import OPTIMIZERS
from gtacli.training.optimizers.base import OptimizerMethod
from gtacli.training.optimizers.timm_made import of_timm
from gtacli.training.sharding import refuse

# The best rate of low-rank adapters is about ten times that of the whole network, whatever the rank
# (Schulman et al., LoRA Without Regret, 2025).
ADAPTER_LR_SCALE = 10.0


def make_optimizer(
    model: nn.Module,
    head: tuple[str, ...],
    optimizer: str,
    lr: float | None,
    head_lr_scale: float,
    weight_decay: float | None,
    layer_decay: float | None,
    options: Mapping[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """Create a registered optimizer or one of timm, with groups for decay, layers and head.

    Args:
        head: prefixes of the names of the classifier's parameters; their learning rate is
            multiplied by `head_lr_scale`.
        lr, weight_decay: None: the optimizer's usual ones.
        layer_decay: factor of each block's learning rate relative to the block above it.
        options: of the optimizer itself; default: its own defaults.

    Raises UsageError for an unknown optimizer, or one without a usual learning rate if lr is None.
    """
    method = _load_method(optimizer, options or {})
    lr = method.lr if lr is None else lr
    if lr is None:
        text = f"{optimizer} has no usual learning rate; set `lr`"
        raise UsageError(text, option="optimizer")
    if weight_decay is None:
        weight_decay = method.weight_decay
    exempt = tuple(cast(Any, model).no_weight_decay())
    if layer_decay is None:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
    else:
        groups = param_groups_layer_decay(
            model, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
        )
    names = {id(p): n for n, p in model.named_parameters()}
    split = [part for g in groups for part in _split_group(g, names, head, head_lr_scale)]
    return method.create(split, lr, weight_decay)


def require_shardable(optimizer: str) -> None:
    """Raise UsageError (option "shard_model") for an optimizer that needs parameters whole."""
    if not _load_method(optimizer, {}).shardable:
        refuse(f"optimizer={optimizer}", "it needs whole parameters; use adamw or sgd")


def _load_method(name: str, options: Mapping[str, Any]) -> OptimizerMethod[Any]:
    """Return a registered optimizer with its options, or one of timm.

    Raises UsageError (option "optimizer") for a name that neither has.
    """
    if name not in OPTIMIZERS.names() and (found := of_timm(name)) is not None:
        if options:
            raise UsageError(
                f"{name} is timm's, made with timm's own defaults; it takes no options",
                option=f"optimizers.{name}",
            )
        return found
    try:
        part = OPTIMIZERS.load(name)
    except UsageError as error:
        error.option = "optimizer"
        raise
    return part(build(part.Options, options, f"optimizers.{name}"))


def _split_group(
    group: dict[str, Any], names: dict[int, str], head: tuple[str, ...], scale: float
) -> list[dict[str, Any]]:
    """Split a group: classifier and adapters with their own learning rates, and the rest."""
    parts: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for p in group["params"]:
        name = names[id(p)]
        is_head = name.startswith(head)
        factor = scale if is_head else ADAPTER_LR_SCALE if is_factor(name) else 1.0
        parts.setdefault((is_head, factor), []).append(p)
    base = group.get("lr_scale", 1.0)
    return [
        {**group, "params": params, "lr_scale": base * factor, "head": is_head}
        for (is_head, factor), params in sorted(parts.items(), key=lambda part: part[0])
    ]


class Schedule(CosineLRScheduler):
    """timm's cosine schedule, with a later start for the backbone.

    Attributes:
        frozen: optimizer steps in which the backbone's learning rate is 0; then it warms up.
    """

    frozen = 0

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        super().step_update(num_updates, metric)
        since = num_updates - self.frozen
        if self.frozen and since < self.warmup_t:
            for group in self.optimizer.param_groups:
                if not group["head"]:
                    group["lr"] *= max(since + 1, 0) / (self.warmup_t + 1)


def make_schedule(
    optimizer: torch.optim.Optimizer, steps: int, warmup_steps: int, frozen: int = 0
) -> Schedule:
    """Create the schedule: a linear warm-up, then a half cycle of a cosine to zero.

    The warm-up begins one step above zero: at a rate of zero its first step, which is an epoch of
    a small dataset, would teach nothing.

    It has no state: `step_update(n)` sets the learning rate of step n, so resuming needs nothing.

    Args:
        steps: optimizer steps in all.
        warmup_steps: of them, those of the warm-up.
        frozen: steps in which only the head learns. They do not change the curve; the backbone
            joins it after a warm-up of its own.
    """
    warmup_steps = min(warmup_steps, steps // 2)  # in a single epoch not all steps are warm-up
    schedule = Schedule(
        optimizer,
        t_initial=max(
            2, steps - warmup_steps
        ),  # timm warns about a single step; its rate is the same
        warmup_t=warmup_steps,
        warmup_lr_init=optimizer.param_groups[0]["lr"] / (warmup_steps + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
    schedule.frozen = frozen
    return schedule
