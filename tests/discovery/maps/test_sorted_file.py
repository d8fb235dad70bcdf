"""Tests of sorted files of keys, against a dict and the whole array."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.discovery.maps import sorted_file
from gtacli.discovery.maps.digests import stack, words_of
from gtacli.discovery.maps.sorted_file import COVERED, Rows, SortedFile, row_type, write_sorted

NUMBER = np.dtype("<u8")
# Few different bytes, so that first halves are often equal, over several blocks.
halves = st.sampled_from([bytes(8), b"\0" * 7 + b"\1", b"\xff" * 8, b"abcdefgh"])
keys = st.builds(lambda a, b: a + b, halves, halves) | st.binary(min_size=16, max_size=16)


def sorted_rows(some: list[bytes]) -> Rows:
    rows = np.zeros(len(some), row_type(NUMBER))
    rows["key"], rows["value"] = words_of(stack(some)), np.arange(len(some))
    return rows[np.argsort(rows["key"][:, 0], kind="stable")]


def write(folder: Path, rows: Rows, cuts: int = 1) -> Path:
    pieces = np.array_split(rows, cuts)
    covered = np.zeros(2, COVERED)
    covered["rows"] = [1, 2]
    return write_sorted(folder, covered, NUMBER, len(rows), pieces, folder / "draft")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a block."""
    monkeypatch.setattr(sorted_file, "BLOCK_BYTES", 3 * row_type(NUMBER).itemsize + 5)


@given(st.lists(keys, max_size=20), st.lists(keys, max_size=8), st.integers(1, 4))
def test_finds_the_first_of_equal_keys(kept: list[bytes], more: list[bytes], cuts: int) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(sorted_file, "BLOCK_BYTES", 3 * row_type(NUMBER).itemsize)
        file = SortedFile(write(Path(folder), sorted_rows(kept), cuts), NUMBER)
        first = {one: i for i, one in reversed(list(enumerate(kept)))}
        asked = [*kept, *more]
        values, known = file.find(stack(asked))
        assert known.tolist() == [one in first for one in asked]
        assert values[known].tolist() == [first[one] for one in asked if one in first]
        assert len(file) == len(kept)
        assert file.check()


@given(st.lists(keys, max_size=20), st.lists(st.integers(0, 2**64), max_size=4))
def test_ranges_are_cut_anywhere(kept: list[bytes], cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(sorted_file, "BLOCK_BYTES", 3 * row_type(NUMBER).itemsize)
        rows = sorted_rows(kept)
        file = SortedFile(write(Path(folder), rows), NUMBER)
        bounds = sorted({0, *cuts, 2**64})
        parts = [file.between(low, high) for low, high in pairwise(bounds)]
        assert np.concatenate(parts).tobytes() == rows.tobytes()
        for (low, high), part in zip(pairwise(bounds), parts, strict=True):
            assert all(low <= word < high for word in part["key"][:, 0].tolist())


@pytest.mark.usefixtures("small_blocks")
def test_damage_of_any_byte_is_found(tmp_path: Path) -> None:
    rows = sorted_rows([bytes([i * 11 % 256]) * 16 for i in range(10)])
    path = write(tmp_path, rows)
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 64
        path.write_bytes(data)
        try:
            file = SortedFile(path, NUMBER)
        except ValueError:
            continue
        assert not file.check()
        with pytest.raises(ValueError, match="is damaged"):
            file.between(0, 2**64)
    for size in (0, 7, 30, len(whole) - 1, len(whole) + 1):
        path.write_bytes((whole + b"\0")[:size])
        with pytest.raises(ValueError, match=r"no sorted file|ends early"):
            SortedFile(path, NUMBER)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="no sorted file"):
        SortedFile(path, np.dtype((np.uint8, 16)))


def test_a_wrong_number_of_rows_is_no_file(tmp_path: Path) -> None:
    rows = sorted_rows([bytes(16), b"\1" * 16])
    with pytest.raises(ValueError, match="2 rows instead of 3"):
        write_sorted(tmp_path, np.zeros(0, COVERED), NUMBER, 3, [rows], tmp_path / "draft")
    assert not list(tmp_path.iterdir())
