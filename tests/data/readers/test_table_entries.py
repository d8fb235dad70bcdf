"""Keys of a table's images, which are written without `pathlib` where that is possible."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gtacli.data.readers.table_entries import TableEntries, _is_plain
from gtacli.data.readers.table_images import ImageFinder
from gtacli.data.readers.table_rows import TableRow

steps = st.sampled_from(["a", "b.jpg", ".", "..", ".hidden", "", "C:", "x\\y", "ä"])


@given(st.lists(steps, min_size=1, max_size=5).map("/".join))
@example("a//b")
@example("/a")
@example("a/.")
def test_a_plain_path_is_what_pathlib_writes(path: str) -> None:
    if _is_plain(path):
        assert Path(path).as_posix() == path


def test_most_paths_are_plain() -> None:
    assert _is_plain("train/001.Black_footed_Albatross/a 1.jpg")


@pytest.mark.parametrize("cell", ["x/1.jpg", "./x/1.jpg", "x//1.jpg", "x/./1.jpg", "y/../x/1.jpg"])
@pytest.mark.parametrize("below", [".", "tables"])
def test_keys(tmp_path: Path, cell: str, below: str) -> None:
    folder = tmp_path / below
    (folder / "x").mkdir(parents=True)
    (folder / "y").mkdir()
    (folder / "x" / "1.jpg").touch()
    finder = ImageFinder(folder)
    finder.prepare([cell])
    entries = TableEntries(tmp_path)
    row = TableRow(folder / "t.csv", 2, cell, "c", "train", "")
    entries.add([row], finder, None)
    (found,) = entries.found
    assert found.key == (Path(below) / cell).as_posix()
    assert found.path == str(folder / cell)
