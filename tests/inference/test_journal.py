"""Tests of the journal of results: what is repeated is what was computed from the same inputs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gtacli.errors import RunError
from gtacli.inference.journal import ResultJournal


def source(path: Path) -> tuple[str, tuple[Path, ...]]:
    return path.name, (path, path.with_suffix(".mask"))


def test_a_file_that_changes_while_it_is_processed_is_processed_again(tmp_path: Path) -> None:
    """The result is that of the file before: it must not be taken for the changed one's."""
    images = [tmp_path / f"{i}.png" for i in range(6)]
    for image in images:
        image.write_bytes(b"before")
        image.with_suffix(".mask").write_bytes(b"before")
    with ResultJournal[Path](tmp_path) as journal:
        assert [*journal.replay(images, source, 1)] == []
        ahead = [*journal.rest]  # threads read ahead of the results
        images[2].write_bytes(b"after this")
        images[4].with_suffix(".mask").unlink()
        for image in ahead:
            journal.add(image.name, lines=[])
    with ResultJournal[Path](tmp_path, resume=True) as journal:
        assert [e["image"] for e in journal.replay(images, source, 1)] == ["0.png", "1.png"]
        assert [*journal.rest] == images[2:]
    images[2].write_bytes(b"before")
    with ResultJournal[Path](tmp_path, resume=True) as journal:
        assert len([*journal.replay(images, source, 1)]) == 2


def test_results_have_the_stamps_of_their_own_images(tmp_path: Path) -> None:
    images = [tmp_path / f"{i}.png" for i in range(4)]
    for image in images:
        image.touch()
    with ResultJournal[Path](tmp_path) as journal:
        assert [*journal.replay(images, source, 2)] == []
        taken = [next(journal.rest) for _ in range(3)]
        journal.add(taken[0].name, error="cannot be read")
        journal.add(taken[1].name, lines=[])
    with ResultJournal[Path](tmp_path, resume=True) as journal:
        entries = [*journal.replay(images, source, 2)]
        assert [entry["image"] for entry in entries] == ["0.png", "1.png"]
        assert [*journal.rest] == images[2:]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_full_disk_is_told_by_the_name_of_the_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    journal: ResultJournal[str] = ResultJournal(tmp_path, resume=True)
    with journal:
        journal._stamps.append(("a.png", ""))
        with pytest.raises(RunError, match=r"cannot write .*journal\.jsonl \(No space left"):
            journal.add("a.png", mask="a.png")
