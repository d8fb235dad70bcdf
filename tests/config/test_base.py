"""Strict models, texts read by type, and errors in words."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from gtacli.config.base import StrictModel, build, did_you_mean, first_problem, read_text
from gtacli.errors import UsageError


class Options(StrictModel):
    epochs: int = Field(3, ge=1)
    lr: float | None = Field(None, gt=0)
    cache: Literal["auto", "ram"] = "auto"
    size: int | str = 3
    flip: bool = True
    names: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": "ten"}, "epochs: must be a whole number, got 'ten'"),
        ({"epochs": "10"}, "epochs: must be a whole number, got '10'"),
        ({"epochs": 2.5}, "epochs: must be a whole number, got 2.5"),
        ({"epochs": True}, "epochs: must be a whole number, got true"),
        ({"epochs": 0}, "epochs: must be at least 1, got 0"),
        ({"lr": 0}, "lr: must be more than 0, got 0"),
        ({"lr": "x"}, "lr: must be a number, got 'x'"),
        ({"lr": float("nan")}, "lr: must be a finite number, got nan"),
        ({"lr": float("inf")}, "lr: must be a finite number, got inf"),
        ({"cache": "rma"}, "cache: must be one of auto, ram, got 'rma'; did you mean 'ram'?"),
        ({"cache": 3}, "cache: must be one of auto, ram, got 3"),
        ({"size": []}, "size: must be a whole number or text, got []"),
        ({"flip": 1}, "flip: must be true or false, got 1"),
        ({"epoch": 1}, "epoch: unknown key 'epoch'; did you mean 'epochs'?"),
        ({"zzz": 1}, "zzz: unknown key 'zzz'"),
        ({"names": ("a",)}, "names.0: must be a whole number, got 'a'"),
    ],
)
def test_errors_in_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(Options, values, "options")
    assert str(caught.value) == f"options.{message}"


def test_models_are_frozen() -> None:
    options = build(Options, {"epochs": 4})
    with pytest.raises(ValidationError):
        options.epochs = 5  # type: ignore[misc]


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(UsageError) as caught:
        build(Options, {"epochs": "x" * 1000}, "options")
    assert len(str(caught.value)) < 120


def test_did_you_mean() -> None:
    assert did_you_mean("epoch", ["lr", "epochs"]) == "; did you mean 'epochs'?"
    assert did_you_mean("qqq", ["lr", "epochs"]) == ""


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("epochs", "007", 7),
        ("lr", ".5", 0.5),
        ("lr", "1e-3", 1e-3),
        ("flip", "1", True),
        ("flip", "no", False),
        ("size", "3", 3),
        ("size", "3x", "3x"),
        ("names", "[1, 2]", (1, 2)),
    ],
)
def test_text_is_read_by_the_type_of_its_field(field: str, text: str, value: Any) -> None:
    read = read_text(text, Options.model_fields[field])
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("epochs", "2.5", "must be a whole number, got 2.5"),
        ("epochs", "ten", "must be a whole number, got 'ten'"),
        ("flip", "perhaps", "must be true or false, got 'perhaps'"),
        ("names", "[1, 'a']", "must be a whole number, got 'a'"),
    ],
)
def test_a_text_that_does_not_fit_its_field(field: str, text: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read_text(text, Options.model_fields[field])
    assert first_problem(caught.value, (field,), at=(field,), typed=True).text == message
