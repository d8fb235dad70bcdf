"""Tests of the names of shards: lazy, complete, and divided without overlap."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.data.spec import find_stream, load_dataset
from gtacli.data.streams.names import ShardNames, find_shards
from gtacli.errors import GtaError
from tests.web import Web


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 5), st.integers(0, 11))
def test_parts_have_every_shard_once(shards: int, ranks: int, workers: int, rank: int) -> None:
    names = ShardNames(None, [f"{i}.tar" for i in range(shards)])
    parts = [names.part(r, ranks).part(w, workers) for r in range(ranks) for w in range(workers)]
    found = [shard.place for part in parts for shard in part]
    assert sorted(found) == sorted(shard.place for shard in names)
    assert all(len(part) == len(list(part)) for part in parts)
    lengths = [len(names.part(r, ranks)) for r in range(ranks)]
    assert max(lengths) - min(lengths) <= 1


def test_names_are_made_when_their_turn_comes(web: Web) -> None:
    names = find_shards("wds", "https://example.org/{a,b}/{000000000..499999999}.tar?k=1", ".tar")
    assert len(names) == 1_000_000_000
    part = names.part(3, 8)
    assert next(iter(part)) == (
        "a/000000003.tar", "https://example.org/a/000000003.tar?k=1",
    )  # fmt: skip
    assert web.asked == []


def test_a_folder_has_its_shards_sorted_by_their_parts(tmp_path: Path) -> None:
    for name in ("b/0.tar", "b-c/0.tar", "a.tar", "b/._x.tar", "b/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = find_shards("wds", str(tmp_path), ".tar")
    assert [shard.name for shard in names] == ["a.tar", "b/0.tar", "b-c/0.tar"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("gone/{0..99999}.tar", "no such shard: .*gone/0.tar"),
        ("*.tar", "no such shard"),
        ("", "no .tar in that folder"),
    ],
)
def test_nothing_at_all_is_said_before_anything_begins(
    pattern: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(GtaError, match=said):
        find_stream(f"wds/{tmp_path}/{pattern}")


@pytest.mark.parametrize(
    "rest",
    [
        "pipe:touch MARK", " pipe:touch MARK", "{pipe:touch MARK,a.tar}", "{p,q}ipe:touch MARK",
        "{https://example.org/a.tar,pipe:touch MARK}", "file:///etc/passwd", "gs:x.tar",
        "http://example.org/{0..9}.tar", "https:train-000.tar",
        "{p,q}{0..99999}ipe:touch MARK{0..9}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", ["wds", "parquet"])
def test_other_schemes_are_refused(family: str, rest: str, web: Web) -> None:
    with pytest.raises(GtaError) as caught:
        find_stream(f"{family}/{rest}")
    assert "\n" not in str(caught.value)
    assert web.asked == []


def test_parquet_is_no_dataset_with_an_index(tmp_path: Path) -> None:
    with pytest.raises(GtaError, match=r"is read as a stream by .* hfds/FOLDER"):
        load_dataset(f"parquet/{tmp_path}")
    assert find_stream("demo") is None
    assert find_stream(str(tmp_path)) is None
