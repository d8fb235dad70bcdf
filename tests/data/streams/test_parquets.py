"""Tests of Parquet files that are read as streams, local and remote, good and hostile."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from gtacli.data.spec import find_stream
from gtacli.data.streams import parquets
from gtacli.data.streams.parquets import read_parquet
from gtacli.data.streams.samples import ShardError, ShardImage, Unreadable
from gtacli.data.streams.stream import ImageStream
from gtacli.errors import GtaError
from tests.web import Web

ROWS: list[Any] = [{"bytes": b"image %d" % i, "path": f"../{i}.png"} for i in range(25)]


class Ranges:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read_range(self, start: int, size: int) -> bytes:
        return self.data[start : start + size]


def file_of(columns: dict[str, Any], classes: list[str] | None = None, **options: Any) -> bytes:
    table = pa.table(columns)
    if classes is not None:
        features = {"label": {"names": classes, "_type": "ClassLabel"}}
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def read(data: bytes) -> list[Any]:
    return list(read_parquet(Ranges(data), labels=True))


def stream_of(spec: str) -> ImageStream:
    found = find_stream(spec)
    assert found is not None
    return found


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_rows_in_order_with_their_labels(size: int, compression: str) -> None:
    columns = {"id": range(25), "image": ROWS, "label": [i % 3 - 1 for i in range(25)]}
    data = file_of(columns, ["cat", "dog"], row_group_size=size, compression=compression)
    found = read(data)
    assert [tuple(one) for one in found] == [
        (f"row {i}", b"image %d" % i, ("", "cat", "dog")[i % 3], i) for i in range(25)
    ]
    for start in range(27):
        assert list(read_parquet(Ranges(data), labels=True, start=start)) == found[start:]


@pytest.mark.parametrize(
    "columns",
    [
        {"img": pa.array([b"a", b"b"], pa.large_binary()), "mask": [b"x", b"x"]},
        {"picture": [b"a", b"b"], "cls": ["x", "y"]},
        {"image": [{"bytes": b"a"}, {"bytes": b"b"}], "mask": [{"bytes": b"x"}, {"bytes": b"x"}]},
    ],
)
def test_columns_of_images(columns: dict[str, Any]) -> None:
    assert [one.data for one in read(file_of(columns))] == [b"a", b"b"]


def test_unclear_columns_are_named() -> None:
    for columns in ({"a": [b"x"], "b": [b"x"]}, {"a": [1]}):
        with pytest.raises(ShardError, match="unclear which column has the images; it has a"):
            read(file_of(columns))


def test_rows_without_bytes_reach_no_file(tmp_path: Path) -> None:
    (tmp_path / "beside.png").write_bytes(b"secret")
    rows = [{"bytes": None, "path": str(tmp_path / "beside.png")}, None, {"bytes": b"x"}]
    first, second, third = read(file_of({"image": rows}))
    assert first == Unreadable("row 0", "it has no bytes: files beside a shard are not read")
    assert isinstance(second, Unreadable)
    assert third.data == b"x"


def test_too_large_ones_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquets, "LARGEST", 100)
    (one,) = read(file_of({"image": [b"x" * 101]}))
    assert one.error == "it has 101 bytes; at most 100 are read"
    monkeypatch.setattr(parquets, "_MOST_UNPACKED", 50_000)
    with pytest.raises(ShardError, match=r"a row group in it has .* bytes; at most 50,000"):
        read(file_of({"image": [b"x" * 99_999 + b"%d" % i for i in range(3)]}, compression="zstd"))
    with pytest.raises(ShardError, match=r"a row group in it has .* bytes; at most 50,000"):
        read(file_of({"an.image": [b"x" * 99_999] * 3}, compression="zstd"))
    with pytest.raises(ShardError, match="it describes 1,000,000 rows in"):
        read(file_of({"image": pa.array([b"x"] * 1_000_000)}))


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_files_end_with_one_line(data: Any) -> None:
    whole = bytearray(file_of({"image": ROWS, "label": list(range(25))}, ["a"], row_group_size=7))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place : place + 4] = data.draw(st.binary(min_size=1, max_size=4))
    cut = data.draw(st.integers(0, len(whole)))
    for variant in (bytes(whole), bytes(whole[:cut])):
        try:
            read(variant)
        except ShardError as error:
            text = str(error)
            if "\n" in text or "Error" in text:
                pytest.fail(text)


def test_remote_files_are_read_in_ranges(tmp_path: Path, web: Web) -> None:
    """Of the columns that are needed, with broken connections."""
    extra = pa.array([b"%d" % i * 20_000 for i in range(25)])
    data = file_of(
        {"image": ROWS, "mask": extra, "label": [0] * 25}, ["cat"], row_group_size=5,
        compression="none",
    )  # fmt: skip
    (tmp_path / "a-val.parquet").write_bytes(data)
    url = "https://example.org/a-val.parquet"
    web.files[url], web.breaks[url] = data, []
    local = list(stream_of(f"parquet/{tmp_path}").images())
    remote = list(stream_of(f"parquet/{url}").images())
    assert [one.image.data for one in local if isinstance(one, ShardImage)] == [
        row["bytes"] for row in ROWS
    ]
    for one, other in zip(local, remote, strict=True):
        assert isinstance(one, ShardImage)
        assert isinstance(other, ShardImage)
        assert (one.image.data, one.label, one.split) == (other.image.data, "cat", "val")
        assert other.image.name.startswith(f"{url}:row ")
    sizes = [one.removeprefix("bytes=").split("-") for one in web.ranges]
    assert sum(int(end) - int(start) + 1 for start, end in sizes) < len(data) // 2
    web.sends_ranges = False
    (item,) = stream_of(f"parquet/{url}").images()
    assert isinstance(item, Unreadable)
    assert "sends no parts of a file; download it" in item.error


def test_pyarrow_is_named_where_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(GtaError, match=r"pip install 'gtacli\[parquet\]'"):
        find_stream(f"parquet/{tmp_path}")
