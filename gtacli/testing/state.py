"""State that a part must leave as it is: that of the process, and that of a network."""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import nn

from gtacli.testing.promises import require

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
_PLAIN = (bool, int, float, str, type(None))


def process_state() -> dict[str, object]:
    """Return the state of the process that parts share, by its name."""
    module = torch.nn.modules.module
    hooks = [name for name in vars(module) if name.startswith("_global") and "hook" in name]
    root = logging.getLogger()
    return {
        "the random numbers of Python": random.getstate(),
        "the random numbers of NumPy": str(np.random.get_state(legacy=False)),
        "the random numbers of torch": torch.get_rng_state().numpy().tobytes(),
        "the gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "the number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the precision of matrix products": torch.get_float32_matmul_precision(),
        "cuDNN's settings": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "hooks of all modules": [len(_sized(getattr(module, name))) for name in hooks],
        "NumPy's handling of errors": np.geterr(),
        "environment variables": dict(os.environ),
        "the working folder": os.getcwd(),
        "the root logger": (root.level, tuple(map(id, root.handlers))),
        "signal handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "sys.stdout": id(sys.stdout),
    }


def _sized(hooks: object) -> Any:
    return hooks if isinstance(hooks, Mapping) else ()


@contextmanager
def unchanged_process(doing: str) -> Iterator[None]:
    """Require that what runs inside leaves the process as it was and prints nothing on stdout."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        before = process_state()
        yield
        after = process_state()
    changed = [name for name, value in before.items() if value != after[name]]
    require(not changed, f"{doing} changes {', '.join(changed)}")
    require(not printed.getvalue(), f"{doing} prints on stdout, which is for results: use logging")


def network_state(model: nn.Module) -> dict[str, object]:
    """Return everything about a network that a part must not change, by its name."""
    found: dict[str, object] = {}
    for name, module in model.named_modules():
        where = name or "the network"
        for hooks in _HOOKS:
            found[f"{hooks[1:].replace('_', ' ')} of {where}"] = len(_sized(vars(module)[hooks]))
        found[f"forward() of {where}"] = vars(module).get("forward")
        plain = {k: v for k, v in vars(module).items() if isinstance(v, _PLAIN)}
        found[f"settings of {where}"] = plain
    for name, parameter in model.named_parameters():
        found[f"whether {name} learns"] = parameter.requires_grad
        found[f"the gradient of {name}"] = (
            None if parameter.grad is None else digest(parameter.grad)
        )
    for name, tensor in model.state_dict().items():
        found[f"the values of {name}"] = digest(tensor)
    return found


def digest(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """Return dtype, shape and bytes of a tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


@contextmanager
def unchanged_network(model: nn.Module, doing: str, of: str = "the model") -> Iterator[None]:
    """Require that what runs inside leaves a network as it was: weights, hooks, modes."""
    before = network_state(model)
    yield
    after = network_state(model)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    require(not changed, f"{doing} changes {changed[0] if changed else ''}{more} ({of})")
