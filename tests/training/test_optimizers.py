"""The optimizers of a run: registered ones with their options, and timm's by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gtacli.errors import UsageError
from gtacli.registry import OPTIMIZERS
from gtacli.testing.inputs import tiny_vit
from gtacli.training.optimization import make_optimizer


def make(name: str, lr: float | None = None, **options: Any) -> torch.optim.Optimizer:
    return make_optimizer(tiny_vit(0), ("head",), name, lr, 10.0, None, None, options)


def test_names_and_usual_rates() -> None:
    assert OPTIMIZERS.names() == ["adamw", "sgd"]
    found = {name: make(name).defaults for name in ("adamw", "sgd", "adam", "momentum")}
    assert {name: d["lr"] for name, d in found.items()} == {
        "adamw": 1e-4,
        "sgd": 1e-2,
        "adam": 1e-4,
        "momentum": 1e-2,
    }
    assert {name: d["weight_decay"] for name, d in found.items()} == {
        "adamw": 0.05,
        "sgd": 1e-4,
        "adam": 0.05,
        "momentum": 1e-4,
    }
    assert (found["sgd"]["nesterov"], found["momentum"]["nesterov"]) == (True, False)


def test_options() -> None:
    adamw = make("adamw", beta2=0.95, eps=1e-6)
    assert (adamw.defaults["betas"], adamw.defaults["eps"]) == ((0.9, 0.95), 1e-6)
    sgd = make("sgd", momentum=0.5, nesterov=False)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.5, False)


@pytest.mark.parametrize(
    ("name", "lr", "options", "message"),
    [
        ("adamww", None, {}, "optimizer: unknown optimizer 'adamww'; did you mean 'adamw'"),
        ("lamb", None, {}, "optimizer: lamb has no usual learning rate; set `lr`"),
        ("lamb", 0.1, {"beta1": 0.5}, "optimizers.lamb: lamb is timm's"),
        ("adamw", None, {"beta3": 0.5}, "optimizers.adamw.beta3: unknown key"),
        ("sgd", None, {"momentum": 0.0}, "`nesterov` needs a `momentum` above 0"),
    ],
)
def test_errors(name: str, lr: float | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        make(name, lr, **options)
    assert message in str(error.value)
