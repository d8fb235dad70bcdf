"""Texts from a shell, and trees of settings with their sources."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.config.values import Setting, find, leaves, literal, merge, nest, plain, tree_of, typed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1", -1),
        ("3e-4", 3e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("007", 7),
        ("true", True),
        ("True", "True"),
        ("last", "last"),
        ("-1,-2", "-1,-2"),
        ("[-1, -2]", [-1, -2]),
        ('"quoted"', "quoted"),
        ("", ""),
        ("a = 3", "a = 3"),
        ("3\nx = 4", "3\nx = 4"),
        ("{a = 1}", {"a": 1}),
    ],
)
def test_literal(text: str, value: Any) -> None:
    read = literal(text)
    assert read == value
    assert type(read) is type(value)


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    literal(text)


def test_a_typed_text_stays_text_until_its_field_is_known() -> None:
    assert typed("2024", "X") == Setting("2024", "X", typed=True)
    assert typed('"2024"').value == "2024"
    assert typed('"a" + "b"').value == '"a" + "b"'


def test_labels_and_errors_name_the_source() -> None:
    flag, recipe = Setting(3, key="lr"), Setting(3, "recipe r", "lr")
    assert [s.label for s in (flag, recipe, Setting(3, "GTA_X__LR"))] == [
        "`lr`", "recipe r: lr", "GTA_X__LR"
    ]  # fmt: skip
    assert str(flag.error("wrong")) == "lr: wrong"
    error = recipe.error("wrong")
    assert (str(error), error.option, error.source) == ("recipe r: lr: wrong", "lr", "recipe r")
    assert str(Setting(3, "GTA_X__LR").error("wrong")) == "GTA_X__LR: wrong"


def test_trees() -> None:
    low = tree_of({"a": 1, "t": {"x": 1, "y": 2}, "e": {}}, "recipe r")
    high = nest(("t", "y"), Setting(3, "--set"))
    merged = merge(low, high)
    assert plain(merged) == {"a": 1, "t": {"x": 1, "y": 3}, "e": {}}
    found = find(merged, ("t", "x"))
    assert found is not None
    assert found.label == "recipe r: t.x"
    assert find(merged, ("t", "y")) == Setting(3, "--set")
    assert find(merged, ("t",)) is not None
    assert find(merged, ("a", "deeper")) == low["a"]
    assert find(merged, ("nothing",)) is None
    assert list(leaves(merged)) == [low["a"], found, Setting(3, "--set"), low["e"]]
