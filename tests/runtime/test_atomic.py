"""Tests of atomic writing."""

from __future__ import annotations

from pathlib import Path

import pytest

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
