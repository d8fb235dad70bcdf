"""How typed text is read, and trees of values with their source."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.config.values import (
    Given,
    find,
    literal,
    merge,
    nest,
    plain,
    read_text,
    replace,
    second_reading,
    tree_of,
)


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


def test_second_reading() -> None:
    assert second_reading(read_text("2024", "--out"), "must be a path, got 2024") == Given(
        "2024", "--out"
    )
    yes = second_reading(read_text("1", "X"), "must be true or false, got 1")
    assert yes == Given(True, "X")
    assert second_reading(read_text("ten", "--epochs"), "must be a whole number") is None
    assert second_reading(Given(3, "recipe"), "must be text") is None


def test_trees() -> None:
    low = tree_of({"a": 1, "t": {"x": 1, "y": 2}, "e": {}}, "recipe r")
    high = nest(("t", "y"), Given(3, "--set"))
    merged = merge(low, high)
    assert plain(merged) == {"a": 1, "t": {"x": 1, "y": 3}, "e": {}}
    found = find(merged, ("t", "x"))
    assert found is not None
    assert found.label == "recipe r: t.x"
    assert find(merged, ("t", "y")) == Given(3, "--set")
    assert find(merged, ("t",)) is not None
    assert find(merged, ("a", "deeper")) == low["a"]
    assert find(merged, ("nothing",)) is None
    changed = replace(merged, ("t", "x"), Given(9))
    assert plain(changed)["t"] == {"x": 9, "y": 3}
    assert plain(merged)["t"] == {"x": 1, "y": 3}
