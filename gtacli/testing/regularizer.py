"""Promises of a regularizer, checked on tiny networks as a training step uses it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.config.parts import RegularizerOptions
from gtacli.models.tap import Request
from gtacli.regularizers.base import Needs
from gtacli.testing.inputs import (
    OTHER_NETWORKS,
    devices,
    drawn_images,
    tiny_vit,
)
from gtacli.testing.options import Promises, build_options, option_promises
from gtacli.testing.pair import gradients_of_two
from gtacli.testing.promises import clear_error, require, works_or_says
from gtacli.testing.state import unchanged_network, unchanged_process
from gtacli.testing.step import Step, require_scalar

STEPS, RATE = 3, 1e-3


def regularizer_promises(part: Any, given: Mapping[str, Any]) -> Promises:
    """Return the promises of a regularizer's class with some options."""

    def on(promise: Callable[[Any, Mapping[str, Any]], None]) -> Callable[[], None]:
        return partial(promise, part, given)

    return {
        **option_promises(part, given, RegularizerOptions),
        "its penalty is a finite scalar in fp32": on(_scalar),
        "its gradient is finite, also where target and source are equal": on(_gradient),
        "its gradient reaches the classifier only if it says so": on(_classifier),
        "its gradient reaches no frozen parameter": on(_frozen),
        "equal steps give equal penalties": on(_deterministic),
        "it works in bfloat16 autocast": on(_autocast),
        "it works on a batch of one image": on(_one_image),
        "it asks for blocks that exist, and for a source if it needs one": on(_needs),
        "its strength and its metrics are numbers": on(_numbers),
        "it leaves both networks as they are, without hooks": on(_networks_alone),
        "it leaves the state of the process as it is": on(_process_alone),
        "it trains for some steps": on(_training),
        "it supports other networks or refuses them in words": on(_other_networks),
        "it gives all processes of a run the same gradients": on(_two_processes),
    }


def _scalar(part: Any, given: Mapping[str, Any]) -> None:
    for device in devices():
        penalty = Step(part, given, device=device).penalty()
        require_scalar(penalty, device)
        require(penalty.dtype in (torch.float32, torch.float64), f"penalty() is {penalty.dtype}")


def _gradient(part: Any, given: Mapping[str, Any]) -> None:
    for where, source in (("", tiny_vit(1)), (" where target and source are equal", tiny_vit(0))):
        step = Step(part, given, source=source)
        gradients = step.gradients()
        bad = [name for name, g in gradients.items() if not g.isfinite().all()]
        require(not bad, f"the gradient{where} is not finite in {', '.join(bad[:3])}")
        if step.part.strength(0.5) > 0:
            require(gradients, "penalty() has no gradient in the target: is it detached?")


def _classifier(part: Any, given: Mapping[str, Any]) -> None:
    step = Step(part, given)
    if part.reaches_head:
        return
    reached = [
        name for name, g in step.gradients().items() if name.startswith(step.head) and g.any()
    ]
    require(
        not reached,
        f"the gradient reaches {', '.join(reached)}, but reaches_head is False: the penalty would "
        "be skipped while the backbone is frozen",
    )


def _frozen(part: Any, given: Mapping[str, Any]) -> None:
    step = Step(part, given)
    for name, parameter in step.target.named_parameters():
        parameter.requires_grad_(not name.startswith("blocks.0."))
    penalty = Step(part, given, step.target, step.source).penalty()
    if penalty.requires_grad:
        penalty.backward()
    reached = [n for n, p in step.target.named_parameters() if p.grad is not None]
    frozen = [n for n in reached if n.startswith("blocks.0.")]
    learns = [n for n, p in step.source.named_parameters() if p.grad is not None]
    require(not frozen, f"the gradient reaches the frozen {', '.join(frozen[:2])}")
    require(not learns, f"the gradient reaches the source's {', '.join(learns[:2])}")


def _deterministic(part: Any, given: Mapping[str, Any]) -> None:
    step = Step(part, given)
    first, second = step.penalty(), step.penalty()
    other = Step(part, given).penalty()
    for again, how in ((second, "of the same object"), (other, "of another object")):
        require(
            torch.allclose(first, again, rtol=1e-5, atol=0),
            f"two equal steps {how} give {first.item():.7g} and {again.item():.7g}",
        )


def _autocast(part: Any, given: Mapping[str, Any]) -> None:
    for device in devices():
        step = Step(part, given, device=device)
        penalty = step.penalty(autocast=True)
        require_scalar(penalty, device)
        require(
            penalty.dtype in (torch.float32, torch.float64),
            f"penalty() is {penalty.dtype} in autocast: compute it from .float() values",
        )
        if penalty.requires_grad:
            penalty.backward()
        grads = [p.grad for p in step.target.parameters() if p.grad is not None]
        require(all(g.isfinite().all() for g in grads), "the gradient in autocast is not finite")


def _one_image(part: Any, given: Mapping[str, Any]) -> None:
    step = Step(part, given)
    gradients = step.gradients(drawn_images(1))
    bad = [name for name, g in gradients.items() if not g.isfinite().all()]
    require(not bad, f"the gradient of one image is not finite in {', '.join(bad[:3])}")


def _needs(part: Any, given: Mapping[str, Any]) -> None:
    step = Step(part, given)
    needs, depth = step.part.needs, 3
    require(isinstance(needs, Needs), f"needs is {type(needs).__name__}, not a Needs")
    for request in (needs.target, needs.source or Request()):
        numbers = {*request.layers, *request.msa, *request.hidden}
        absent = sorted(n for n in numbers if not 0 <= n < depth)
        require(not absent, f"needs has block {absent}: numbers are absolute, 0 to {depth - 1}")
    if needs.source is not None:
        require(part.needs_source, "needs asks for the source, but needs_source is False")
    options = build_options(part, given, RegularizerOptions)
    if part.needs_source:
        with clear_error("without a source", ["source"]):
            part(options, step.target, None, step.head)
    else:
        part(options, step.target, None, step.head)


def _numbers(part: Any, given: Mapping[str, Any]) -> None:
    step = Step(part, given)
    step.penalty()
    for progress in (0.0, 0.5, 1.0):
        strength = float(step.part.strength(progress))
        good = math.isfinite(strength) and strength >= 0
        require(good, f"strength({progress}) is {strength}")
    every = step.part.every
    require(isinstance(every, int) and every >= 1, f"every is {every!r}, not a number of steps")
    for name, value in step.part.metrics().items():
        good = isinstance(value, Tensor) and value.ndim == 0
        require(good, f"metric {name} is no 0-dim tensor")
        require(not value.requires_grad, f"metric {name} has a gradient: detach it")


def _networks_alone(part: Any, given: Mapping[str, Any]) -> None:
    target, source = tiny_vit(0).train(), tiny_vit(1).requires_grad_(False)
    with (
        unchanged_network(target, "a step", "the target"),
        unchanged_network(source, "a step", "the source"),
    ):
        Step(part, given, target, source).penalty()


def _process_alone(part: Any, given: Mapping[str, Any]) -> None:
    target, source = tiny_vit(0), tiny_vit(1)
    Step(part, given, target, source).penalty()  # imports what it needs
    with unchanged_process("a step"):
        Step(part, given, target, source).penalty()


def _training(part: Any, given: Mapping[str, Any]) -> None:
    step = Step(part, given, source=tiny_vit(0))  # as at the start of a run
    groups = [{"params": [*step.target.parameters()], "lr": RATE}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    for number in range(STEPS):
        outputs = step.outputs()
        assert outputs.target.logits is not None
        assert outputs.labels is not None
        loss = F.cross_entropy(outputs.target.logits, outputs.labels)
        loss = loss + step.part.strength(number / STEPS) * step.part.penalty(outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step.part.after_step(optimizer.param_groups)
    values = [*step.target.parameters()]
    require(all(v.isfinite().all() for v in values), f"after {STEPS} steps weights are not finite")


def _other_networks(part: Any, given: Mapping[str, Any]) -> None:
    pairs = {name: (changes, changes) for name, changes in OTHER_NETWORKS.items()}
    pairs["a source of another width and depth"] = ({}, {"embed_dim": 12, "depth": 2})
    for name, (ours, theirs) in pairs.items():
        target, source = tiny_vit(0, **ours), tiny_vit(1, **theirs)
        size = ours.get("img_size", (32, 32))
        with works_or_says(name):
            penalty = Step(part, given, target, source).penalty(drawn_images(2, size))
            require_scalar(penalty, torch.device("cpu"))


def _two_processes(part: Any, given: Mapping[str, Any]) -> None:
    build_options(part, given, RegularizerOptions)
    ours, theirs = gradients_of_two(part, given)
    require(ours, "no process has a gradient")
    differ = [n for n in ours if n not in theirs or not torch.equal(ours[n], theirs[n])]
    require(not differ, f"two processes have different gradients of {', '.join(differ[:2])}")
    require(all(g.isfinite().all() for g in ours.values()), "a gradient is not finite")
