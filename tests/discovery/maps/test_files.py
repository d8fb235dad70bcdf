"""Tests of files of maps and journals: complete, or detected as damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gtacli.discovery.maps.files import RowArray, load, maps_type, save
from gtacli.discovery.maps.journal import Journal
from gtacli.errors import RunError, UsageError

KIND = maps_type((2, 3))


def rows(count: int, seed: int = 0) -> RowArray:
    made = np.empty(count, KIND)
    rng = np.random.default_rng(seed)
    made["digest"] = rng.integers(0, 256, (count, 16))
    made["map"] = rng.integers(0, 256, (count, 2, 3))
    return made


def test_file_round_trip(tmp_path: Path) -> None:
    wanted = rows(5)
    path = save(tmp_path / "maps", wanted, tmp_path / "draft")
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]
    found = load(path, KIND)
    assert found is not None
    assert (found == wanted).all()
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")["map"]  # as documented
    assert (mapped == wanted["map"]).all()
    assert load(path, maps_type((3, 2))) is None


def test_any_changed_byte_is_detected(tmp_path: Path) -> None:
    path = save(tmp_path, rows(2), tmp_path / "draft")
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        assert load(path, KIND) is None
    for cut in (whole[:-1], b"", whole + b"\0"):
        path.write_bytes(cut)
        assert load(path, KIND) is None


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"out: cannot write .*/file/.* \(File exists\)"):
        save(tmp_path / "file", rows(1), tmp_path / "draft")
    journal = Journal(tmp_path / "journal", KIND)
    journal._file.close()
    journal._file = open("/dev/full", "rb+", 0)  # noqa: SIM115
    with pytest.raises(RunError, match=r"cannot write .*journal \(No space left on device\)"):
        journal.append(rows(1))

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        save(tmp_path / "maps", rows(1), tmp_path / "draft")
    assert list((tmp_path / "maps").iterdir()) == []
    assert not (tmp_path / "draft").exists()


def written(path: Path, batches: list[RowArray]) -> bytes:
    journal = Journal(path, KIND)
    assert list(journal.replay()) == []
    for batch in batches:
        journal.append(batch)
    journal.close(remove=False)
    return path.read_bytes()


def test_truncated_journal_keeps_complete_batches(tmp_path: Path) -> None:
    batches = [rows(2, 1), rows(1, 2), rows(3, 3)]
    path = tmp_path / "journal"
    whole = written(path, batches)
    ends = [0, *np.cumsum([8 + KIND.itemsize * len(batch) for batch in batches]).tolist()]
    assert ends[-1] == len(whole)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        journal = Journal(path, KIND)
        kept = list(journal.replay())
        assert len(kept) == sum(end <= cut for end in ends[1:])
        assert all((a == b).all() for a, b in zip(kept, batches, strict=False))
        assert path.stat().st_size == ends[len(kept)]
        journal.append(rows(1, 4))
        assert len(list(journal.replay())) == len(kept) + 1
        journal.close(remove=False)


def test_damaged_journal_keeps_earlier_batches(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = written(path, [rows(2, 1), rows(1, 2), rows(3, 3)])
    middle = 8 + 2 * KIND.itemsize
    for i in range(middle, middle + 8 + KIND.itemsize):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :])
        journal = Journal(path, KIND)
        assert len(list(journal.replay())) == 1
        journal.close(remove=False)


def test_journal_is_locked_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path, KIND)
    with pytest.raises(UsageError, match=r"out: .* is in use by gta discover"):
        Journal(path, KIND)
    first.close(remove=True)
    assert not path.exists()
    Journal(path, KIND).close(remove=False)
