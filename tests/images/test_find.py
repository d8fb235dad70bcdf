"""Tests of finding images: the order, hidden files, links, and the work per file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gtacli.errors import GtaError
from gtacli.images.find import find_images, list_image_paths, relative_keys

NAMES = ("b/1.png", "a-b/2.JPG", "a/1.png", "a/deep/3.png", "a.png", "b.txt", ".hidden.png",
         "__MACOSX/4.png", "a/.git/5.png", "ä/6.png", "a b/7.png")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_the_order_is_that_of_the_parts_of_the_paths(folder: Path) -> None:
    found = find_images(folder)
    assert found == sorted(found)
    assert relative_keys(found, folder) == [
        "a/1.png", "a/deep/3.png", "a b/7.png", "a-b/2.JPG", "a.png", "b/1.png", "ä/6.png",
    ]  # fmt: skip


def test_paths_of_the_working_directory_have_no_dot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "a")
    assert list_image_paths(Path()) == [os.path.join("1.png"), os.path.join("deep", "3.png")]
    assert relative_keys(find_images(Path()), Path()) == ["1.png", "deep/3.png"]


@pytest.mark.skipif(os.name == "nt", reason="links need a permission there")
def test_links_are_followed_once(folder: Path) -> None:
    (folder / "a" / "back").symlink_to(folder)
    (folder / "c").symlink_to(folder / "b")
    (folder / "nowhere.png").symlink_to(folder / "missing.png")
    found = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert [name for name in found if name.endswith("1.png")] == ["a/1.png", "b/1.png"]
    assert "nowhere.png" in found  # reported when it is read


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_an_error(folder: Path) -> None:
    (folder / "b").chmod(0)
    try:
        with pytest.raises(GtaError, match="cannot read folder"):
            find_images(folder)
    finally:
        (folder / "b").chmod(0o755)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GtaError, match="cannot read folder"):
        find_images(tmp_path / "none")
