"""Tests of the bounds within which TOML of strangers is read."""

from __future__ import annotations

import pytest

from gtacli.runtime.strict_toml import parse_toml

REFUSED = {
    "characters": ("# " + "x" * 70_000, "it has more than 65,536 characters"),
    "dots": ("a" + ".a" * 20_000 + "=1", "it has a line of more than 1,024 dots"),
    "keys": ("a" + ".a" * 100 + "=1", "nested more than 64 deep"),
    "tables": (f"[a{'.a' * 100}]", "nested more than 64 deep"),
    "lists": ("a = " + "[" * 9000, "nested too deep"),
    "inline": ("a = " + "{a=" * 9000, "nested too deep"),
    "digits": ("a = " + "9" * 9000, "too many digits"),
    "no value": ("a = ", "invalid value"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_odd_toml_is_refused_in_one_line(kind: str) -> None:
    text, message = REFUSED[kind]
    with pytest.raises(ValueError, match=f"(?i){message}") as caught:
        parse_toml(text)
    assert len(str(caught.value)) < 120
    assert "Error" not in str(caught.value)


def test_plain_toml_is_read() -> None:
    assert parse_toml("a = 1\n[b.c]\nd = [1.5, {e = 'f'}]") == {
        "a": 1, "b": {"c": {"d": [1.5, {"e": "f"}]}},
    }  # fmt: skip
