"""The card of an exported file: it comes from strangers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gtacli.errors import GtaError
from gtacli.models.exporters.card import read_export_card

CARD: dict[str, Any] = {
    "outputs": ["probabilities", "box"],
    "image_size": [32, 48],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "classes": ["a", "ö"],
}


def test_it_comes_back_from_json() -> None:
    card = read_export_card(json.dumps(CARD), "x.onnx")
    assert card.image_size == (32, 48)
    assert read_export_card(card.to_json(), "x.onnx") == card


def test_what_another_version_adds_is_passed_over() -> None:
    assert read_export_card(json.dumps({**CARD, "new": 1}), "x").classes == ("a", "ö")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"outputs": []}, "outputs"),
        ({"outputs": ["logits"]}, "outputs"),
        ({"outputs": ["box", "box"]}, "twice"),
        ({"image_size": [32, 10**9]}, "image_size"),
        ({"std": [0, 1, 1]}, "std"),
        ({"temperature": 0}, "temperature"),
        ({"classes": ["x" * 20_000]}, "classes"),
        ({"layout": 2}, "layout"),
    ],
)
def test_a_wrong_entry_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(GtaError, match=rf"^x\.onnx: its card.*{named}"):
        read_export_card(json.dumps({**CARD, **changes}), "x.onnx")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"classes": NaN}', "[" * 5000])
def test_what_is_no_card_is_one_line(text: str) -> None:
    with pytest.raises(GtaError, match=r"^x\.onnx: its card: .+") as caught:
        read_export_card(text, "x.onnx")
    assert "\n" not in str(caught.value)


def test_credentials_in_a_spec_are_masked() -> None:
    card = read_export_card(json.dumps(CARD), "x.onnx")
    card = card.model_copy(update={"spec": "https://me:secret@host/x"})
    assert "secret" not in card.to_json()
