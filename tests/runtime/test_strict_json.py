"""Tests of the strict JSON reader: what is refused, and in which words."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gtacli.runtime.strict_json import MAX_DEPTH, parse_json, read_json

REFUSED = {
    b"": "it is empty",
    b" \n": "it is empty",
    b"{": "it is not JSON: expecting property name .* in line 1, character 2",
    b"[1]\n[2]": "it is not JSON: extra data in line 2",
    b'{"a": 1, "b": 2, "a": 3}': "its key 'a' occurs twice",
    b'{"a": NaN}': "it holds NaN",
    b"[-Infinity]": "it holds -Infinity",
    b"[1e400]": "its number 1e400 is too large",
    b"[" + b"9" * 25 + b"]": "has more than 64 bits",
    b"[" + b"9" * 9000 + b"]": "has more than 64 bits",
    '{"a": 1}'.encode("utf-16"): r"it is not UTF-8 text \(byte 0\)",
    b'{"a": "\xe9"}': r"it is not UTF-8 text \(byte 7\)",
    b"\x00\x01\x02": "it is not JSON",
    b"[" * 100 + b"]" * 100: f"nested more than {MAX_DEPTH} deep",
    b"[" * 100_000 + b"]" * 100_000: f"nested more than {MAX_DEPTH} deep",
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000: f"nested more than {MAX_DEPTH} deep",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:20]))
def test_anything_but_plain_json_is_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "file.json").write_bytes(text)
    with pytest.raises(ValueError, match=REFUSED[text]) as caught:
        read_json(tmp_path / "file.json")
    assert len(str(caught.value)) < 120
    assert "Error" not in str(caught.value)


def test_plain_json_is_read_as_by_python() -> None:
    deep: object = 1.5
    for _ in range(MAX_DEPTH):
        deep = [deep]
    for value in ({"a": [1, -2.5, None, True, "é\n"], "": {}}, [], 0, "x", -(2**63), deep):
        text = json.dumps(value)
        assert parse_json(text) == parse_json(text.encode()) == value
        assert parse_json(b"\xef\xbb\xbf" + text.encode()) == value


def test_words_for_nonfinite_numbers_are_read_if_asked_for() -> None:
    assert str(parse_json("[NaN, Infinity]", nonfinite=True)) == "[nan, inf]"
    with pytest.raises(ValueError, match="too large"):
        parse_json("[1e400]", nonfinite=True)


def test_one_of_many_keys_twice_is_found_at_once() -> None:
    many = ", ".join(f'"{number}": 0' for number in range(20_000))
    started = time.process_time()
    with pytest.raises(ValueError, match="its key 'x' occurs twice"):
        parse_json(f'{{{many}, "x": 1, "x": 2}}')
    assert time.process_time() - started < 2
