"""Access to weights that processes share, which a process has whole only while a module runs.

A module of a sharded network (`gtacli.training.sharding`) gathers its weights before its `forward`
and frees them afterwards. Functions that use its parts in another way are called by `run_in`. For
any other module they are plain calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import nn

R = TypeVar("R")
RUN_IN = "run_in_window"
"""Method that a sharded module has: it calls a function while the weights are whole."""
CLASS = "class_before_sharding"


def run_in(module: nn.Module, function: Callable[..., R], *args: Any) -> R:
    """Return `function(*args)`, called while the module's own weights are whole.

    Tensors that need gradients are passed as arguments, not bound in the function.
    """
    run = getattr(module, RUN_IN, None)
    return function(*args) if run is None else cast(R, run(function, *args))


def class_of(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module; sharding has put another one in front of it."""
    return cast("type[nn.Module]", getattr(module, CLASS, type(module)))
