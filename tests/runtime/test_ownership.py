"""Tests of the lock on a folder: one owner, whoever it is and however it ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gtacli.errors import GtaError, UsageError
from gtacli.runtime import ownership
from gtacli.runtime.drafts import LOCK_PREFIX, is_draft
from gtacli.runtime.ownership import owned
from gtacli.runtime.process_identity import own_identity
from gtacli.runtime.run_folder import default_out

Start = Callable[..., int]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "PATIENCE", 0.0)
    monkeypatch.setattr(ownership, "POLL_SECONDS", 0.01)


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts an owner in a process of its own and returns its number."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    fork = multiprocessing.get_context("fork")
    started = []

    def hold(folder: Path, pipe: Any, child: bool) -> None:
        with owned(folder, "finetune"):
            if child and os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            pipe.send(True)
            time.sleep(60)

    def begin(folder: Path, child: bool = False) -> int:
        mine, theirs = fork.Pipe()
        process = fork.Process(target=hold, args=(folder, theirs, child))
        process.start()
        started.append(process)
        assert mine.poll(20)
        assert process.pid is not None
        return process.pid

    yield begin
    for process in started:
        process.kill()
        process.join()


def test_second_process_is_told_who_owns_the_folder(start: Start, tmp_path: Path) -> None:
    number = start(tmp_path)
    words = rf"out: .* in use by gta finetune \(process {number} on {platform.node()}, since 20"
    with pytest.raises(UsageError, match=words), owned(tmp_path, "segment"):
        pass
    os.kill(number, signal.SIGTERM)


def test_lock_ends_with_its_process(start: Start, tmp_path: Path) -> None:
    """Also if a child of it, such as a loader's worker, lives on."""
    number = start(tmp_path, child=True)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    assert (tmp_path / LOCK_PREFIX).is_file()
    with owned(tmp_path, "finetune"):
        pass
    assert not [*tmp_path.iterdir()]


def test_one_process_cannot_own_a_folder_twice(tmp_path: Path) -> None:
    with owned(tmp_path, "a"):
        with pytest.raises(UsageError, match="in use by gta a"), owned(tmp_path, "b"):
            pass
        with owned(tmp_path, "b", part="one"), owned(tmp_path, "b", part="two"):
            pass
    with owned(tmp_path, "b"):
        pass


def test_folder_without_content_is_removed(tmp_path: Path) -> None:
    with owned(tmp_path / "a" / "b", "finetune"):
        pass
    assert not (tmp_path / "a").exists()
    with owned(tmp_path / "a", "finetune"):
        (tmp_path / "a" / "file").touch()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["file"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GtaError, match="is a file"), owned(tmp_path / "file", "finetune"):
        pass
    with pytest.raises(GtaError, match=r"out: .*file"), owned(tmp_path / "file" / "a", "finetune"):
        pass


def test_waiting_for_the_owner(start: Start, tmp_path: Path) -> None:
    number = start(tmp_path)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(number, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with owned(tmp_path, "finetune", patience=20):
        pass
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


class TestWithoutLocks:
    """A file system without locks: the lock file's record and its time decide."""

    @pytest.fixture(autouse=True)
    def no_locks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ownership, "_lock", lambda file: None)
        monkeypatch.setattr(ownership, "TOUCH_SECONDS", 0.05)

    def write(self, folder: Path, **changes: Any) -> None:
        space, pid, started = own_identity()
        record = {
            "command": "pretrain", "pid": pid, "host": "h", "since": "t", "space": space,
            "started": started,
        }  # fmt: skip
        (folder / LOCK_PREFIX).write_text(json.dumps({**record, **changes}))

    def test_living_process_of_this_machine(self, start: Start, tmp_path: Path) -> None:
        number = start(tmp_path)
        words = f"gta finetune .process {number}"
        with pytest.raises(UsageError, match=words), owned(tmp_path, "a"):
            pass
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        with owned(tmp_path, "a"):
            pass
        assert not [*tmp_path.iterdir()]

    def test_number_of_a_dead_process_taken_by_another(self, tmp_path: Path) -> None:
        if not own_identity().started:
            pytest.skip("the start of a process is unknown here")
        self.write(tmp_path, started=own_identity().started - 1)
        with owned(tmp_path, "a"):
            pass

    @pytest.mark.parametrize(
        "changes",
        [
            {"pid": 10**15},
            {"pid": -1},
            {"pid": "7"},
            {"pid": True},
            {"started": None},
            {"command": ["a"]},
            {"space": {}},
            {"host": "h" * 3000},
        ],
        ids=str,
    )
    def test_strange_record_is_none(self, changes: dict[str, Any], tmp_path: Path) -> None:
        self.write(tmp_path, **changes)
        assert ownership._read_record(tmp_path / LOCK_PREFIX) is None
        with owned(tmp_path, "a"):
            pass

    @pytest.mark.parametrize(
        "text", [b"", b'{"pid":' * 600, b"[" * 4096, b"[1]", b"\xff", b'{"pid": 1, "pid": 1}']
    )
    def test_strange_text_is_no_record(self, text: bytes, tmp_path: Path) -> None:
        (tmp_path / LOCK_PREFIX).write_bytes(text)
        assert ownership._read_record(tmp_path / LOCK_PREFIX) is None
        with owned(tmp_path, "a"):
            pass

    def test_same_number_in_another_container(self, tmp_path: Path) -> None:
        self.write(tmp_path, space="another0")
        with owned(tmp_path, "a"):
            pass

    def test_process_of_another_machine_gives_signs_of_life(self, tmp_path: Path) -> None:
        with owned(tmp_path, "finetune"):
            text = (tmp_path / LOCK_PREFIX).read_text()
            (tmp_path / LOCK_PREFIX).write_text(text.replace(own_identity().space, "another0"))
            with pytest.raises(UsageError, match="gta finetune"), owned(tmp_path, "a"):
                pass


def draft_of(folder: Path, space: str, pid: int, started: int, age: float = 0) -> Path:
    path = folder / f".gta-draft-{space}-{pid}-{started}-0.pt"
    assert is_draft(path.name)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_drafts_of_dead_processes_are_removed(tmp_path: Path) -> None:
    from gtacli.runtime.atomic import replace_atomic

    space, pid, started = own_identity()
    living = draft_of(tmp_path, space, pid, started)
    dead = draft_of(tmp_path, space, pid, started + 1)
    elsewhere = draft_of(tmp_path, "0123abcd", pid, started)
    forgotten = draft_of(tmp_path, "0123abcd", pid + 1, started, age=3 * 24 * 3600)
    below = draft_of(tmp_path / "search", space, pid, started + 1)
    (tmp_path / ".gta-draft-mine").touch()
    replace_atomic(tmp_path / "a.txt", lambda path: path.touch())
    assert living.exists()
    assert elsewhere.exists()
    assert below.exists()
    assert not dead.exists()
    assert not forgotten.exists()
    with owned(tmp_path, "finetune"):  # nobody else writes here
        assert not elsewhere.exists()
        assert not below.exists()
    assert living.exists()
    assert (tmp_path / ".gta-draft-mine").exists()


def test_drafts_below_are_their_owners(tmp_path: Path) -> None:
    below = draft_of(tmp_path / "run", "0123abcd", 1, 1)
    with owned(tmp_path / "run", "finetune"):
        pass
    assert not below.exists()
    with owned(tmp_path / "run", "finetune"):
        draft_of(tmp_path / "run", "0123abcd", 1, 1)
        with owned(tmp_path, "demo"):
            assert below.exists()


def test_equal_default_names_are_different_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands that start in the same second, before one of them writes anything."""
    monkeypatch.chdir(tmp_path)

    class Clock:
        @staticmethod
        def now() -> datetime:
            return datetime(2030, 1, 2)

    monkeypatch.setattr("gtacli.runtime.run_folder.datetime", Clock)
    one, two = default_out("segment"), default_out("segment")
    assert one != two
    with owned(one, "segment"), owned(two, "segment"):
        (two / "run.json").touch()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [two.name]  # nothing was written
    before = [*tmp_path.rglob("*")]
    default_out("segment", dry=True)
    assert [*tmp_path.rglob("*")] == before


def test_default_folder_that_cannot_be_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    with pytest.raises(GtaError, match="runs is a file"):
        default_out("segment")


def test_a_lock_is_seen_without_being_touched(tmp_path: Path) -> None:
    assert not ownership.is_owned(tmp_path, "part")
    with owned(tmp_path, "study", part="part"):
        assert ownership.is_owned(tmp_path, "part")
        assert not ownership.is_owned(tmp_path)
        ownership.remove_dead_lock(tmp_path, "part")
        assert (tmp_path / f"{LOCK_PREFIX}-part").exists()
    (tmp_path / f"{LOCK_PREFIX}-part").touch()  # its owner was killed
    assert not ownership.is_owned(tmp_path, "part")
    assert (tmp_path / f"{LOCK_PREFIX}-part").exists()
    ownership.remove_dead_lock(tmp_path, "part")
    assert not (tmp_path / f"{LOCK_PREFIX}-part").exists()


def test_a_dead_owner_is_seen_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "_lock", lambda file: None)
    with owned(tmp_path, "study", part="part"):
        assert ownership.is_owned(tmp_path, "part")
    assert not ownership.is_owned(tmp_path, "part")
