"""Values and combinations of the options of `gta pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gtacli.config.pretrain import PretrainConfig

MAPS = {"maps": Path("maps")}


@pytest.mark.parametrize(
    ("given", "read", "written"),
    [
        ("1.0:0.5", (1.0, 0.5), "1.0:0.5"),
        ("0.7", (0.7, 0.7), 0.7),
        (0.7, (0.7, 0.7), 0.7),
        (1, (1.0, 1.0), 1.0),
        ([1, 0.25], (1.0, 0.25), "1.0:0.25"),
        ("1e20:0.12345678", (1e20, 0.12345678), "1e+20:0.12345678"),  # a resumed run has the same
    ],
)
def test_tau(given: Any, read: tuple[float, float], written: Any) -> None:
    config = PretrainConfig(tau=given)
    assert config.tau == read
    assert config.model_dump(mode="json")["tau"] == written
    assert PretrainConfig(tau=written).tau == read


@pytest.mark.parametrize("given", ["fast", "1:2:3", "0", "-1", True, [], "1:0"])
def test_invalid_tau(given: Any) -> None:
    with pytest.raises(ValidationError):
        PretrainConfig(tau=given)


@pytest.mark.parametrize(
    ("given", "backend"),
    [
        ({}, "none"),
        (MAPS, ""),
        ({**MAPS, "guide": "none"}, "none"),
        ({"teacher": "x"}, "tokencut"),
        ({"teacher": "x", "guide": "dino"}, "dino"),
    ],
)
def test_backend_that_guides(given: dict[str, Any], backend: str) -> None:
    config = PretrainConfig(**given)
    assert config.backend == backend
    assert config.guided == (backend != "none")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"guide": "tokencut"}, "needs maps"),
        ({**MAPS, "teacher": "x"}, "exclude each other"),
        ({"mask": "attention"}, "`mask=attention` needs maps"),
        ({**MAPS, "mask_share": "0:0.5"}, "`mask_share` needs `mask=attention`"),
        ({**MAPS, "mask": "attention", "mask_share": "0:1.5"}, "less than or equal to 1"),
        ({"teacher": "x", "guide": "none"}, "no effect"),
        ({**MAPS, "guide": "none", "shuffle_maps": True}, "`shuffle_maps` needs a guide"),
        ({"teacher_size": 224}, "needs a `teacher`"),
        ({"predict_ratio": 0.5}, "mae predicts all"),
        ({"method": "crossmae", "predict_ratio": 0.9}, "must not exceed `mask_ratio`"),
        ({**MAPS, "gamma": 1.0, "tau": 0.011}, "overflows"),
    ],
)
def test_invalid_combinations(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PretrainConfig(**given)


def test_any_tau_is_valid_with_gamma_auto() -> None:
    assert PretrainConfig(**MAPS, tau=0.001).tau == (0.001, 0.001)
    assert PretrainConfig(**MAPS, tau=0.012, gamma=1.0).gamma == 1.0


def test_epochs_of_a_periodic_action() -> None:
    config = PretrainConfig(epochs=25)
    assert [e + 1 for e in range(25) if config.due(None, e)] == [3, 6, 9, 12, 15, 18, 21, 24, 25]
    assert [e + 1 for e in range(25) if config.due(10, e)] == [10, 20, 25]
    assert not any(config.due(0, e) for e in range(25))
