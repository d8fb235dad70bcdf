"""The optimizer and the learning-rate schedule, from timm's factories."""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.optim import (
    create_optimizer_v2,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import CosineLRScheduler
from torch import nn

from gtacli.errors import UsageError
from gtacli.models.lora import is_factor

# Usual learning rates for fine-tuning a ViT; other optimizers have none.
DEFAULT_LR = {"adamw": 1e-4, "adam": 1e-4, "nadamw": 1e-4, "sgd": 1e-2, "momentum": 1e-2}
# The best rate of low-rank adapters is about ten times that of the whole network, whatever the rank
# (Schulman et al., LoRA Without Regret, 2025).
ADAPTER_LR_SCALE = 10.0
DEFAULT_WEIGHT_DECAY = {"sgd": 1e-4, "momentum": 1e-4}


def make_optimizer(
    model: nn.Module,
    head: tuple[str, ...],
    optimizer: str,
    lr: float | None,
    head_lr_scale: float,
    weight_decay: float | None,
    layer_decay: float | None,
    **options: Any,
) -> torch.optim.Optimizer:
    """Create AdamW, SGD or any other optimizer of timm, with groups for decay, layers and head.

    Args:
        head: prefixes of the names of the classifier's parameters; their learning rate is
            multiplied by `head_lr_scale`.
        lr, weight_decay: None: the optimizer's usual ones.
        layer_decay: factor of each block's learning rate relative to the block above it.
        options: of the optimizer itself.

    Raises UsageError for an unknown optimizer, or one without a usual learning rate if lr is None.
    """
    if optimizer not in list_optimizers():
        raise UsageError(f"timm has no {optimizer!r}; try adamw or sgd", option="optimizer")
    if lr is None and optimizer not in DEFAULT_LR:
        text = f"{optimizer} has no usual learning rate; set `lr`"
        raise UsageError(text, option="optimizer")
    lr = DEFAULT_LR[optimizer] if lr is None else lr
    if weight_decay is None:
        weight_decay = DEFAULT_WEIGHT_DECAY.get(optimizer, 0.05)
    exempt = tuple(cast(Any, model).no_weight_decay())
    if layer_decay is None:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
    else:
        groups = param_groups_layer_decay(
            model, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
        )
    names = {id(p): n for n, p in model.named_parameters()}
    split = [part for g in groups for part in _split_group(g, names, head, head_lr_scale)]
    # One kernel for all tensors of a group, on the CPU too; the update is the same.
    fused = {"fused": True} if optimizer in ("adamw", "adam", "sgd") else {}
    options = {**fused, **options}
    return create_optimizer_v2(split, opt=optimizer, lr=lr, weight_decay=weight_decay, **options)


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
