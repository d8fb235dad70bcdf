"""Networks whose weights processes share (`shard_model`): FSDP2, torch's `fully_shard`.

Each process holds a part of every parameter, of its gradient and of its moments in the optimizer.
The weights of a transformer block are gathered before the block runs, forward and backward, and
freed afterwards; those outside of the blocks likewise, around the whole network. Gradients are
averaged over the processes as DDP does, so the step is the same.

The networks are loaded and measured whole before the first step: at its start a process needs the
memory of the weights, not that of a step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gtacli.config.training import TrainingConfig
from gtacli.errors import UsageError
from gtacli.models.windows import CLASS, RUN_IN
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import Processes
from gtacli.runtime.tensor_parts import is_shared, part_like

log = logging.getLogger(__name__)
OPTION = "shard_model"


def is_sharded(config: TrainingConfig, processes: Processes) -> bool:
    """Return whether the processes share the weights; a single one has nobody to share with."""
    return config.shard_model and processes.size > 1


def check_shardable(config: TrainingConfig, compute: Compute, processes: Processes) -> None:
    """Raise UsageError (option "shard_model") for options that shared weights do not go with."""
    if not config.shard_model:
        return
    if processes.size == 1:
        log.info("`shard_model`: one process holds the whole network, nothing is shared")
        return
    if compute.device.type == "mps":
        raise UsageError("needs CUDA devices or the CPU", option=OPTION)
    if config.compile:
        refuse("compile", "leave one of them out")
    if config.fit_memory:
        refuse("batch_size=auto", "its trial steps have the whole network; set a number")
    if compute.loss_scaling:
        refuse("precision=fp16", "use bf16")


def refuse(option: str, advice: str) -> None:
    """Raise UsageError: an option is not possible where processes share the weights."""
    raise UsageError(f"cannot be combined with `{option}`: {advice}", option=OPTION)


def shard(networks: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Divide networks among all processes, and let the optimizer update the parts.

    All processes call it, with equal networks, before the optimizer has a state.
    """
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for network in networks:
        before = dict(network.named_parameters())
        _shard_network(network)
        after = dict(network.named_parameters())
        replaced |= {before[name]: after[name] for name in before}
    for group in optimizer.param_groups:
        group["params"] = [replaced.get(p, p) for p in group["params"]]
        if isinstance(optimizer, torch.optim.SGD):
            group["fused"] = False  # that kernel takes no parts, unlike Adam's


def _shard_network(network: nn.Module) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    device = next(network.parameters()).device.type
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for module in (*_blocks(network), network):
        setattr(module, CLASS, type(module))
        # The root's, too: whatever reads parameters between two passes finds parts of all of them.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        setattr(module, RUN_IN, lambda function, *args: function(*args))
        register_fsdp_forward_method(module, RUN_IN)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of a network, of an encoder and a decoder alike."""
    lists = (m for name, m in network.named_modules() if name.rpartition(".")[2] == "blocks")
    return [block for blocks in lists for block in blocks.children()]


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load a saved state, of which an optimizer of shared parameters takes its parts.

    The kernels stay the optimizer's own.
    """
    kernels = [group.get("fused") for group in optimizer.param_groups]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if any(map(is_shared, parameters)):
        state = {
            number: {key: part_like(value, parameters[number]) for key, value in entry.items()}
            for number, entry in saved["state"].items()
        }
        saved = {**saved, "state": state}
    optimizer.load_state_dict(dict(saved))
    for group, fused in zip(optimizer.param_groups, kernels, strict=True):
        if fused is not None:
            group["fused"] = fused
