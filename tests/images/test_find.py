"""Tests of finding images: the order, hidden files, links, and the work per file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from gtacli.errors import GtaError
from gtacli.images.find import IMAGE_SUFFIXES, find_images, list_image_paths, relative_keys

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


def test_whatever_pillow_decodes_is_found() -> None:
    """Beside what it only recognizes, and programs, which are not read."""
    Image.init()
    stubs = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}
    decoded = {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in stubs
    }
    assert decoded - IMAGE_SUFFIXES == set()
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".txt", ".csv", ".json"} & IMAGE_SUFFIXES


def test_a_file_without_suffix_is_an_image_by_its_content(
    tmp_path: Path, make_image: Callable[..., Path]
) -> None:
    for name in ("photo", "IMG 0001", "n.v2"):
        make_image(tmp_path / "x.png", (8, 8)).rename(tmp_path / name)
    (tmp_path / "LICENSE").write_text("Python software may be used")
    (tmp_path / "Makefile").write_text("P6: P5\n\techo")  # begins as a PPM does
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert [path.name for path in find_images(tmp_path)] == ["IMG 0001", "photo"]
