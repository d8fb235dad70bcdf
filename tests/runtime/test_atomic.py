"""Tests of atomic writing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gtacli.errors import RunError
from gtacli.runtime.atomic import replace_atomic, write_atomic


def test_file_is_replaced_and_folder_created(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        assert write_atomic(file, lambda draft, text=text: draft.write_text(text)) == str(file)
        assert file.read_text() == text
    replace_atomic(file, lambda draft: draft.write_text("three"), sync=True)
    assert [p.name for p in file.parent.iterdir()] == ["a.txt"]
    assert file.read_text() == "three"


def test_a_closed_stdout_is_not_an_error_of_the_file(tmp_path: Path) -> None:
    def write(draft: Path) -> None:
        draft.write_text("half")
        raise BrokenPipeError  # of stdout, where results are printed meanwhile

    with pytest.raises(BrokenPipeError):
        write_atomic(tmp_path / "a.csv", write)
    assert not [*tmp_path.iterdir()]


def test_existing_file_stays_if_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("whole")

    def half(draft: Path) -> None:
        draft.write_text("ha")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        replace_atomic(file, half, draft=tmp_path / "mine")
    assert file.read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_error_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"sheet: cannot write .*file/a.png"):
        write_atomic(tmp_path / "file" / "a.png", lambda draft: draft.touch(), "sheet")


@pytest.fixture
def group_umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.safetensors", lambda path: save_file({"a": torch.zeros(2)}, path)),
        ("state.pt", lambda path: torch.save({}, path)),
        ("mask.png", lambda path: Image.new("L", (2, 2)).save(path, "PNG")),
        ("report.html", lambda path: path.write_text("page")),
    ],
)
def test_mode_is_what_the_umask_gives(
    tmp_path: Path, group_umask: None, name: str, write: Callable[[Path], object]
) -> None:
    replace_atomic(tmp_path / name, write)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_link_in_place_of_the_draft_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "draft").symlink_to(other)
    replace_atomic(
        tmp_path / "a.txt", lambda draft: draft.write_text("new"), draft=tmp_path / "draft"
    )
    assert (other.read_text(), (tmp_path / "a.txt").read_text()) == ("mine", "new")
