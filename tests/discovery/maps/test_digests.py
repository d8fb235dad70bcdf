"""Tests of tables of digests against dictionaries."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.discovery.maps import digests
from gtacli.discovery.maps.digests import SIZE, DigestSet, DigestTable, digest, file_stamp, stack
from gtacli.images.decode import EncodedImage

# Few different bytes, so that first halves are often equal.
halves = st.sampled_from([bytes(8), b"\0" * 7 + b"\1", b"\xff" * 8, b"abcdefgh"])
some = st.lists(st.builds(lambda a, b: a + b, halves, halves), max_size=12)


@given(some, some)
def test_table_finds_first_row_of_each_digest(kept: list[bytes], asked: list[bytes]) -> None:
    table = DigestTable(stack(kept))
    first = {one: i for i, one in reversed(list(enumerate(kept)))}
    assert table.find(stack(asked)).tolist() == [first.get(one, -1) for one in asked]


def test_large_table() -> None:
    kept = [digest(str(i).encode()) for i in range(20_000)]
    table = DigestTable(stack(kept))
    order = np.random.default_rng(0).permutation(len(kept))
    assert (table.find(stack(kept[i] for i in order)) == order).all()
    assert (table.find(stack(digest(b"x" + one) for one in kept)) == -1).all()


@given(some, st.lists(some, max_size=4), some)
def test_growing_digest_set(
    first: list[bytes], more: list[list[bytes]], asked: list[bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "_MANY", 3)
        table = DigestTable(stack(first))
        known = DigestSet(lambda asked: table.find(asked) >= 0)
        for added in more:
            known.add(added)
        truth = {*first, *(one for added in more for one in added)}
        assert [one in known for one in asked] == [one in truth for one in asked]


def test_file_stamp_depends_on_path_size_and_times(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    before = file_stamp(path)
    assert before is not None
    assert len(before) == SIZE
    assert file_stamp(path) == before
    stat = path.stat()
    path.write_bytes(b"two")  # same length, and the same modification time below
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert file_stamp(path) != before
    path.rename(tmp_path / "b.png")
    assert file_stamp(path) is None
    assert file_stamp(EncodedImage("x", b"x")) is None  # it has no time of change
