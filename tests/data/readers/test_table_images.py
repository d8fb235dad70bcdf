"""Files of many rows are found by listing their folders; whatever that misses is looked up."""

import os
from pathlib import Path

import pytest

from gtacli.data.readers.table_images import LISTED, ImageFinder, LostImage


@pytest.fixture
def cells(tmp_path: Path) -> list[str]:
    names = [f"{folder}{k}.png" for folder in ("", "a/", "a/b/") for k in range(LISTED)]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return names


def prepared(folder: Path, cells: list[str], within: bool = False) -> ImageFinder:
    finder = ImageFinder(folder, within)
    finder.prepare(cells)
    return finder


def test_files_of_a_listed_folder_are_not_looked_up(
    tmp_path: Path, cells: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = prepared(tmp_path, cells)
    monkeypatch.setattr("os.path.isfile", lambda path: pytest.fail(f"looked up {path}"))
    assert [finder.find(cell) for cell in cells] == cells


@pytest.mark.parametrize("form", ["{0}", "./{0}", "{1}/{0}", "../{2}/{0}"])
def test_every_form_of_a_path(tmp_path: Path, cells: list[str], form: str) -> None:
    written = [form.format(cell, tmp_path, tmp_path.name) for cell in cells]
    finder = prepared(tmp_path, written)
    assert [finder.find(cell) for cell in written] == written


def test_what_is_no_file_is_still_lost(tmp_path: Path, cells: list[str]) -> None:
    (tmp_path / "a" / "folder.png").mkdir()
    os.symlink("nowhere", tmp_path / "a" / "broken.png")
    lost = ["a/folder.png", "a/broken.png", "a/none.png", "none/1.png", "a/\0.png", "\0/1.png"]
    finder = prepared(tmp_path, [*cells, *lost * LISTED])
    for cell in lost:
        with pytest.raises(LostImage, match="no such image"):
            finder.find(cell)
    assert [finder.find(cell) for cell in cells] == cells


def test_a_link_is_found(tmp_path: Path, cells: list[str]) -> None:
    os.symlink("0.png", tmp_path / "link.png")
    assert prepared(tmp_path, [*cells, "link.png"]).find("link.png") == "link.png"


def test_few_images_among_many_files_are_found(tmp_path: Path) -> None:
    """Of a folder with very many other files only so many names are read."""
    few = [f"{k}.png" for k in range(LISTED)]
    for name in (*few, *(f"other{k}" for k in range(LISTED * LISTED * 2))):
        (tmp_path / name).touch()
    finder = prepared(tmp_path, few)
    assert [finder.find(cell) for cell in few] == few


def test_names_of_strangers_stay_inside(tmp_path: Path, cells: list[str]) -> None:
    inside = tmp_path / "a"
    outside = [f"../{k}.png" for k in range(LISTED)]
    within = [f"{k}.png" for k in range(LISTED)]
    finder = prepared(inside, [*within, *outside], within=True)
    assert [finder.find(cell) for cell in within] == within
    for cell in outside:
        with pytest.raises(LostImage):
            finder.find(cell)
