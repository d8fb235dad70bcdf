"""Tests of datasets and their validation."""

from dataclasses import replace
from pathlib import Path

import pytest

from gtacli.data import ImageDataset, Record
from gtacli.errors import GtaError


def record(key: str, label: int = 0) -> Record:
    return Record(key, label, Path("nowhere") / key)


def dataset(**splits: list[Record]) -> ImageDataset:
    return ImageDataset("set", ("a", "b"), {name: tuple(part) for name, part in splits.items()})


def test_missing_split_is_empty() -> None:
    data = dataset(train=[record("x")])
    assert data["test"] == ()
    assert [split for split, _ in data.records()] == ["train"]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"trian": [record("x")]}, "unknown split 'trian'"),
        ({"train": []}, "it has no image"),
        ({"train": [record("x", 2)]}, "label 2, outside the 2 classes"),
        ({"train": [record("x"), record("x")]}, "x is listed twice"),
        ({"train": [record("x")], "test": [record("x")]}, "x is listed in both test and train"),
    ],
)
def test_invalid_datasets_raise_one_line(splits: dict[str, list[Record]], message: str) -> None:
    with pytest.raises(GtaError, match=message) as caught:
        dataset(**splits)
    assert "\n" not in str(caught.value)


def test_fingerprint_depends_on_content_but_not_on_order(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("x", "y")]
    for file in files:
        file.write_bytes(b"123")
    x, y = Record("x", 0, files[0]), Record("y", 1, files[1])
    print_ = dataset(train=[x, y]).fingerprint()
    assert dataset(train=[y, x]).fingerprint() == print_
    changed = [
        dataset(train=[x, replace(y, label=0)]),
        dataset(train=[x, replace(y, key="z")]),
        dataset(train=[x, y], test=[replace(y, key="z")]),
        ImageDataset("set", ("a", "c"), {"train": (x, y)}),
    ]
    assert print_ not in {other.fingerprint() for other in changed}
    files[0].write_bytes(b"1234")
    assert dataset(train=[x, y]).fingerprint() != print_


def test_fingerprint_of_a_broken_link(tmp_path: Path) -> None:
    assert len(dataset(train=[Record("x", 0, tmp_path / "gone")]).fingerprint()) == 64
