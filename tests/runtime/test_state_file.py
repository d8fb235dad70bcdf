"""Tests of state.pt: damage is noticed, and the state before it is used."""

from __future__ import annotations

import logging
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from gtacli.errors import GtaError
from gtacli.runtime.run_files import PREVIOUS_STATE_FILE, STATE_FILE
from gtacli.runtime.run_folder import RunFolder
from gtacli.runtime.state_file import read_state_file, write_state_file


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    state = {"weights": torch.randn(3, 50), "rows": "[1, 2]", "epoch": 7}
    file = tmp_path / STATE_FILE
    write_state_file(file, state)
    whole = file.read_bytes()
    rng = random.Random(0)
    noticed = 0
    for _ in range(150):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        try:
            found = read_state_file(file)
        except GtaError as error:
            noticed += (error.option, "damaged" in error.message) == ("resume", True)
        else:  # a byte without meaning
            assert torch.equal(found.pop("weights"), state["weights"])
            assert found == {"rows": "[1, 2]", "epoch": 7}
    assert noticed > 50
    start = whole.index(state["weights"].numpy().tobytes())
    for bit in range(0, 8 * 600, 97):
        data = bytearray(whole)
        data[start + bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        with pytest.raises(GtaError, match="the checksum of"):
            read_state_file(file)
    for size in range(0, len(whole), 113):
        file.write_bytes(whole[:size])
        with pytest.raises(GtaError, match="damaged"):
            read_state_file(file)


def test_compressed_state_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, packed = tmp_path / "whole", tmp_path / STATE_FILE
    write_state_file(whole, {"weights": torch.zeros(1 << 20), "rows": "[]"})
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert packed.stat().st_size < 1 << 16
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(GtaError, match=r"state\.pt is damaged \(it is compressed") as caught:
        read_state_file(packed)
    assert caught.value.option == "resume"


class Call:
    """An object whose pickle calls something."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("made",)


def test_states_that_call_or_lie_are_refused(tmp_path: Path) -> None:
    file = tmp_path / STATE_FILE
    torch.save({"rows": Call()}, file)
    with pytest.raises(GtaError, match=r"is damaged \(it calls posix\.mkdir|nt\.mkdir\)"):
        read_state_file(file)
    torch.save({"rows": "[]"}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(GtaError, match=r"is damaged \(it is no archive of torch\)"):
        read_state_file(file)
    torch.save([1, 2], file)
    with pytest.raises(GtaError, match=r"is damaged \(it holds other things than a state\)"):
        read_state_file(file)


def test_state_before_a_damaged_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path)
    assert not run.has_state()
    with pytest.raises(GtaError, match="has no state"):
        run.read_state()
    run.write_state({"epoch": 1})
    assert not run.has(PREVIOUS_STATE_FILE)
    run.write_state({"epoch": 2})
    assert run.read_state()["epoch"] == 2
    (tmp_path / STATE_FILE).write_bytes((tmp_path / STATE_FILE).read_bytes()[:-300])
    with caplog.at_level(logging.WARNING):
        assert run.read_state()["epoch"] == 1
    assert [r.message for r in caplog.records if "state before it" in r.message]
    run.write_state({"epoch": 2})  # which does not put the damaged one in place of the good one
    (tmp_path / STATE_FILE).write_bytes(b"")
    assert run.read_state()["epoch"] == 1
    run.remove_previous_state()
    assert [p.name for p in tmp_path.iterdir()] == [STATE_FILE]


def test_run_killed_between_two_states(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file system has no links."""
    run = RunFolder(tmp_path)
    run.write_state({"epoch": 1})
    (tmp_path / STATE_FILE).rename(tmp_path / PREVIOUS_STATE_FILE)
    assert run.has_state()
    assert run.read_state()["epoch"] == 1
    assert not caplog.records


def test_both_states_damaged(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_state({"epoch": 1})
    run.write_state({"epoch": 2})
    for name in (STATE_FILE, PREVIOUS_STATE_FILE):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(GtaError, match=rf"{STATE_FILE} is damaged"):
        run.read_state()
