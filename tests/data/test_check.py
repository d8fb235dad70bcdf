"""Tests of the check of a dataset."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gtacli.data import ImageDataset, load_dataset
from gtacli.data.base import Publication
from gtacli.data.check import check_dataset
from gtacli.data.spec import read_dataset

Layout = Callable[[str, Path], str]


def as_published(data: ImageDataset) -> ImageDataset:
    """Return the dataset as if its authors had published these few images."""
    counts = {split: len(part) for split, part in data.splits.items()}
    home = "https://example.org/pets"
    return replace(data, published=Publication("Few Pets", home, counts, len(data.classes)))


@pytest.mark.parametrize("name", ["pets", "dogs", "cifar10", "hfds", "wds", "tables"])
def test_complete_dataset(name: str, layout: Layout, tmp_path: Path) -> None:
    data = as_published(load_dataset(layout(name, tmp_path)))
    steps: list[int] = []
    report = check_dataset(data, progress=lambda: steps.append(1))
    assert report["ok"]
    assert len(steps) == report["images"] == sum(map(len, data.splits.values()))
    assert report["parts"]["train"] == {
        "images": 12, "published": 12, "classes": 3, "fewest": 4, "most": 4,
    }  # fmt: skip
    for kind in ("missing", "unreadable", "duplicates", "wrong"):
        assert report[kind] == []


def test_missing_unreadable_and_duplicate_images(layout: Layout, tmp_path: Path) -> None:
    layout("pets", tmp_path)
    data = as_published(read_dataset(f"pets:{tmp_path}"))
    gone, cut, twin = data["train"][0], data["train"][1], data["test"][2]
    gone.path.unlink()
    cut.path.write_bytes(cut.path.read_bytes()[:300])
    twin.path.write_bytes(data["train"][4].path.read_bytes())
    report = check_dataset(data)
    assert [row["image"] for row in report["missing"]] == [gone.key]
    assert [row["image"] for row in report["unreadable"]] == [cut.key]
    assert report["duplicates"] == [
        [{"part": "train", "image": data["train"][4].key}, {"part": "test", "image": twin.key}]
    ]
    home = "; Few Pets is published at https://example.org/pets"
    assert report["wrong"] == [
        f"1 image is missing, first {gone.key}{home}",
        f"1 image is unreadable, first {cut.key}{home}",
        f"1 image is in more than one split, first {data['train'][4].key} (train) "
        f"and {twin.key} (test)",
    ]
    quick = check_dataset(data, quick=True)
    assert quick["unreadable"] == []
    assert len(quick["duplicates"]) == len(quick["missing"]) == 1


def test_duplicates_within_a_split_are_no_problem(layout: Layout, tmp_path: Path) -> None:
    layout("pets", tmp_path)
    data = as_published(read_dataset(f"pets:{tmp_path}"))
    one, other = data["train"][:2]
    other.path.write_bytes(one.path.read_bytes())
    assert check_dataset(data)["ok"]


def test_fewer_images_than_published(layout: Layout, tmp_path: Path) -> None:
    report: dict[str, Any] = check_dataset(load_dataset(layout("dogs", tmp_path)))
    first, second, third = report["wrong"]
    assert first.startswith("the train split has 12 images, 12,000 are published; Stanford Dogs is")
    assert "vision.stanford.edu" in first
    assert second.startswith("the test split has 6 images, 8,580 are published")
    assert third.startswith("3 classes, 120 are published")


def test_missing_shard(layout: Layout, tmp_path: Path) -> None:
    data = load_dataset(layout("wds", tmp_path))
    (tmp_path / "test-000.tar").unlink()
    report = check_dataset(data)
    assert len(report["unreadable"]) == 6
    assert "test-000.tar" in report["unreadable"][0]["error"]
