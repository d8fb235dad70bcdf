"""Promises of an optimizer, checked on a tiny network."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.config.parts import OptimizerOptions
from gtacli.testing.inputs import drawn_images, drawn_labels, tiny_vit
from gtacli.testing.options import Promises, build_options, option_promises
from gtacli.testing.promises import require
from gtacli.testing.state import unchanged_process

RATE, STEPS = 1e-3, 3
KEYS = ("weight_decay", "lr_scale", "head")


def optimizer_promises(part: Any, given: Mapping[str, Any]) -> Promises:
    """Return the promises of an optimizer's class with some options."""

    def on(promise: Callable[[Any, Mapping[str, Any]], None]) -> Callable[[], None]:
        return partial(promise, part, given)

    return {
        **option_promises(part, given, OptimizerOptions),
        "its usual rates are numbers": on(_rates),
        "its groups keep their parameters and keys": on(_groups),
        "its steps change the weights, to finite ones": on(_steps),
        "a first step at a rate of 0 changes nothing": on(_no_rate),
        "it leaves parameters without a gradient as they are": on(_frozen),
        "its state comes back bit for bit": on(_resumes),
        "it leaves the state of the process as it is": on(_process_alone),
    }


class Training:
    """A tiny network that is trained by an optimizer.

    Args:
        part: the optimizer's class.
        given: values of its options.
        lr: learning rate.
    """

    def __init__(self, part: Any, given: Mapping[str, Any], lr: float = RATE) -> None:
        self.model: nn.Module = tiny_vit(0)
        self.lr = lr
        method = part(build_options(part, given, OptimizerOptions))
        named = list(self.model.named_parameters())
        self.groups = [
            {
                "params": [
                    p for n, p in named if n.startswith("head") == head and _bare(p) == bare
                ],
                "weight_decay": 0.0 if bare else 0.05,
                "lr_scale": 10.0 if head else 1.0,
                "head": head,
            }
            for head in (False, True)
            for bare in (False, True)
        ]
        self.optimizer: Any = method.create(self.groups, lr, 0.05)

    def step(self) -> None:
        """Take a step at the rates that a schedule would set."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["lr_scale"]
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(drawn_images()), drawn_labels()).backward()
        self.optimizer.step()

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights."""
        return {n: p.detach().clone() for n, p in self.model.named_parameters()}


def _bare(parameter: Tensor) -> bool:
    return parameter.ndim <= 1


def _rates(part: Any, given: Mapping[str, Any]) -> None:
    method = part(build_options(part, given, OptimizerOptions))
    good = method.lr is None or (isinstance(method.lr, float) and method.lr > 0)
    require(good, f"lr is {method.lr!r}, not a number above 0 or None")
    decay = method.weight_decay
    good = isinstance(decay, float) and decay >= 0
    require(good, f"weight_decay is {decay!r}, not a number from 0 on")


def _groups(part: Any, given: Mapping[str, Any]) -> None:
    training = Training(part, given)
    optimizer = training.optimizer
    kind = type(optimizer).__name__
    require(isinstance(optimizer, torch.optim.Optimizer), f"create() returns {kind}")
    found = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [n for n, p in training.model.named_parameters() if id(p) not in found]
    require(not missing, f"its groups lack {', '.join(missing[:3])}")
    for group in optimizer.param_groups:
        lost = [key for key in KEYS if key not in group]
        require(not lost, f"a group lacks {', '.join(lost)}")


def _steps(part: Any, given: Mapping[str, Any]) -> None:
    training = Training(part, given)
    before = training.weights()
    for _ in range(STEPS):
        training.step()
    after = training.weights()
    bad = [name for name, value in after.items() if not value.isfinite().all()]
    require(not bad, f"after {STEPS} steps {', '.join(bad[:3])} is not finite")
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    require(changed, f"after {STEPS} steps no weight has changed")


def _no_rate(part: Any, given: Mapping[str, Any]) -> None:
    training = Training(part, given, lr=0.0)
    before = training.weights()
    training.step()
    changed = [n for n, v in training.weights().items() if not torch.equal(before[n], v)]
    require(not changed, f"a step at a rate of 0 changes {', '.join(changed[:3])}")


def _frozen(part: Any, given: Mapping[str, Any]) -> None:
    training = Training(part, given)
    before = training.weights()
    frozen = {n for n in before if n.startswith("blocks.0.")}
    for name, parameter in training.model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    training.step()
    after = training.weights()
    changed = [n for n in sorted(frozen) if not torch.equal(before[n], after[n])]
    require(not changed, f"a step without their gradient changes {', '.join(changed[:3])}")


def _resumes(part: Any, given: Mapping[str, Any]) -> None:
    whole, cut, resumed = (Training(part, given) for _ in range(3))
    for _ in range(2 * STEPS):
        whole.step()
    for _ in range(STEPS):
        cut.step()
    saved = io.BytesIO()
    torch.save({"weights": cut.weights(), "optimizer": cut.optimizer.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)  # as gta reads a saved state
    resumed.model.load_state_dict(state["weights"], strict=False)
    resumed.optimizer.load_state_dict(state["optimizer"])
    for _ in range(STEPS):
        resumed.step()
    ours, theirs = whole.weights(), resumed.weights()
    differ = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    require(not differ, f"a run resumed from its state_dict differs in {', '.join(differ[:3])}")


def _process_alone(part: Any, given: Mapping[str, Any]) -> None:
    Training(part, given).step()  # imports what it needs
    training = Training(part, given)
    with unchanged_process("a step"):
        training.step()
