"""Tests of the reader of class folders."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gtacli.data import load_dataset
from gtacli.data.readers.folder import Folder
from gtacli.errors import GtaError


def test_split_folders(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    make_folder(
        tmp_path,
        ["train/cat/1.png", "train/dog/1.JPG", "train/dog/deep/2.webp", "validation/cat/3.png",
         "test/dog/4.bmp", "train/.hidden/1.png", "train/cat/._1.png", "extra/9.png"],
    )  # fmt: skip
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    data = Folder().read(tmp_path)
    assert data.classes == ("cat", "dog")
    assert {split: [r.key for r in part] for split, part in data.splits.items()} == {
        "train": ["train/cat/1.png", "train/dog/1.JPG", "train/dog/deep/2.webp"],
        "val": ["validation/cat/3.png"],
        "test": ["test/dog/4.bmp"],
    }
    assert [r.label for r in data["train"]] == [0, 1, 1]


def test_class_folders_alone_are_for_training(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    make_folder(tmp_path, ["b/1.png", "a/1.png"])
    data = load_dataset(str(tmp_path))
    assert list(data.splits) == ["train"]
    assert [(r.key, r.label) for r in data["train"]] == [("a/1.png", 0), ("b/1.png", 1)]


def test_links_are_followed_once(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    make_image(tmp_path / "store/1.png")
    (tmp_path / "set/a").mkdir(parents=True)
    os.symlink(tmp_path / "store/1.png", tmp_path / "set/a/link.png")
    os.symlink(tmp_path / "store", tmp_path / "set/b")
    os.symlink(tmp_path / "set/a", tmp_path / "set/a/again")
    data = Folder().read(tmp_path / "set")
    assert [r.key for r in data["train"]] == ["a/link.png", "b/1.png"]


@pytest.mark.parametrize(
    ("names", "folders", "message"),
    [
        ([], [], "is empty: expected train/ val/ test/"),
        (["1.png"], [], "holds images but no class folder"),
        ([], ["a", "b"], "there is no image in .*; left out: 2 folders: there is no image in it"),
        (["train/1.png", "test/a/1.png"], [], "train holds images but no class folder"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], [], "holds both val/ and valid/"),
        (["test/1.png", "cat/1.png"], [], "mixes test/ with class folders such as cat/"),
    ],
)
def test_invalid_folders_raise_one_line(
    tmp_path: Path,
    names: list[str],
    folders: list[str],
    message: str,
    make_folder: Callable[..., Path],
) -> None:
    make_folder(tmp_path, names)
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(GtaError, match=message) as caught:
        Folder().read(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_file_instead_of_folder(
    tmp_path: Path, make_image: Callable[..., Path]
) -> None:
    with pytest.raises(GtaError, match="no such folder"):
        Folder().read(tmp_path / "gone")
    with pytest.raises(GtaError, match="is a file, not a folder"):
        Folder().read(make_image(tmp_path / "x.png"))
    with pytest.raises(GtaError, match="write folder:FOLDER"):
        Folder().read(None)
