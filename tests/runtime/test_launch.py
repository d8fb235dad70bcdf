"""Tests of `gta finetune --nproc`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from gtacli.cli import main
from gtacli.runtime.distribution import join_processes
from gtacli.runtime.launch import _describe_failure, _environment, _LaunchedProcesses, launch
from gtacli.runtime.processes import LAUNCHER_PID, claim_report, prepare_report, reported_status

Address = IPv4Address | IPv6Address
PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not (PROC / "net" / "tcp").exists(), reason="needs Linux's /proc")


def words(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "finetune", "-m", str(model), "--data", str(data), "-o", str(out), "--device", "cpu",
        "--batch-size", "8", "--workers", "0", "--epochs", "2", "--nproc", "2", *more,
    ]  # fmt: skip


def test_launched_processes_give_one_status_and_report(capfd: Any) -> None:
    assert launch(["--version"], 2) == 0
    assert launch(["predict", "--no-such-option"], 2) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_one_process_prints_result_and_log(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(words(tiny_model, tiny_data, tmp_path / "run", "--json")) == 0
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    assert json.loads(line)["n_test"] == 12
    assert err.count("epoch 2,") == 1


@pytest.mark.slow
def test_common_error_is_reported_once(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    assert main(words(tiny_model, tiny_data, tmp_path / "run")) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "not empty" in err


def test_invalid_options_start_no_process(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Any
) -> None:
    asked = words(tiny_model, tiny_data, tmp_path / "run")
    assert main([*asked, "--print-config"]) == 0
    assert "nproc = 2" in capfd.readouterr().out
    assert main([*asked, "--epochs", "ten"]) == 2
    assert main([*asked, "--nproc", "0"]) == 2
    assert not (tmp_path / "run").exists()


def test_nproc_must_match_torchrun(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4}
    for name, value in {**place, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("gtacli.runtime.processes.claim_report", lambda *a: None)
    assert main(words(tiny_model, tiny_data, tmp_path / "run")) == 2
    assert "torchrun has started 4 processes here, not 2" in capfd.readouterr().err


def test_message_names_the_process_that_failed() -> None:
    assert _describe_failure({0: -15, 1: -9}) == (
        "process 1 was killed (SIGKILL); `resume` continues from the last saved state"
    )
    assert "process 1 ended with status 7" in _describe_failure({1: 7})
    assert "process 0 was killed (SIGTERM)" in _describe_failure({0: -15})


def test_first_report_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def claim(rank: int, status: int, lost: bool = False) -> int | None:
        monkeypatch.setenv("RANK", str(rank))
        return claim_report(status, lost)

    values = {"WORLD_SIZE": "3", "LOCAL_RANK": "0", "GTA_LAUNCHER": str(tmp_path)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    prepare_report(tmp_path)
    assert claim(2, 3, lost=True) == 3
    assert reported_status(tmp_path) is None
    assert claim(1, 2) is None
    assert claim(1, 2) is None  # by the same process
    assert claim(0, 3) == 2
    assert claim(2, 3, lost=True) == 2
    assert reported_status(tmp_path) == 2
    monkeypatch.setenv("GTA_LAUNCHER", str(tmp_path / "gone"))
    assert claim(0, 3) is None  # two reports are better than none


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _LaunchedProcesses():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to", "status", "message"),
    [
        (signal.SIGKILL, 1, 3, "process 1 was killed (SIGKILL); --resume"),
        (signal.SIGINT, None, 130, "continue with --resume"),
        (signal.SIGTERM, 0, 130, "continue with --resume"),
    ],
)
def test_signals_and_killed_processes(
    number: int, to: int | None, status: int, message: str, tiny_model: Path, tiny_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    asked = words(tiny_model, tiny_data, run, "-q", "--epochs", "3000")
    with started(asked, run) as gta:
        os.kill(gta.pid if to is None else child(gta.pid, to), number)
        out, err = gta.communicate(timeout=60)
    assert gta.returncode == status
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err
    assert (run / "state.pt").exists()


@needs_proc
def test_joined_processes_listen_on_the_loopback_interface(together: Any, tmp_path: Path) -> None:
    prepare_report(tmp_path)

    def join(rank: int) -> list[Address]:
        os.environ.update(_environment(tmp_path, rank, 2))
        os.environ[LAUNCHER_PID] = str(os.getppid())
        with join_processes() as processes:
            processes.gather(rank)
            return listening(os.getpid())

    for addresses in together(join, 2):
        assert addresses  # gloo's
        assert [address for address in addresses if not address.is_loopback] == []


@needs_proc
@pytest.mark.slow
def test_nobody_else_reaches_the_processes(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run, above = tmp_path / "run", tmp_path / "above"
    above.mkdir()
    asked = words(tiny_model, tiny_data, run, "-q", "--epochs", "3000")
    with started(asked, run, TMPDIR=str(above)) as gta:
        family = descendants(gta.pid)
        addresses = [address for pid in family for address in listening(pid)]
        folders = {path.name: path.stat().st_mode & 0o777 for path in above.glob("gta-*")}
        gta.terminate()
        assert gta.wait(60) == 130
    assert len(family) == 3
    assert addresses  # gloo's
    assert [address for address in addresses if not address.is_loopback] == []
    assert list(folders.values()) == [0o700]
    assert list(above.glob("gta-*")) == []


@needs_proc
@pytest.mark.slow
def test_processes_end_with_their_launcher(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with started(words(tiny_model, tiny_data, run, "-q", "--epochs", "3000"), run) as gta:
        _, *processes = descendants(gta.pid)
        gta.kill()
        gta.wait()
        assert len(processes) == 2
        end = time.monotonic() + 60
        while any(map(alive, processes)) and time.monotonic() < end:
            time.sleep(0.1)
        assert [pid for pid in processes if alive(pid)] == []


@contextmanager
def started(asked: list[str], run: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A `gta` that has saved its first state in `run`; it and its processes end with the block."""
    gta = subprocess.Popen(
        [sys.executable, "-m", "gtacli", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        text=True,
    )
    with gta:
        end = time.monotonic() + 150
        while not (run / "state.pt").exists() and gta.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        family = descendants(gta.pid)
        try:
            assert (run / "state.pt").exists()
            yield gta
        finally:
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return `pid` and the ids of all processes below it."""
    below = [child for child, parent in parents().items() if parent == pid]
    return [pid, *(one for child in below for one in descendants(child))]


def parents() -> dict[int, int]:
    found = {}
    for entry in PROC.glob("[0-9]*"):
        with suppress(OSError):
            above = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            found[int(entry.name)] = int(above)
    return found


def alive(pid: int) -> bool:
    with suppress(OSError):
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def listening(pid: int) -> list[Address]:
    """Return the addresses of the TCP sockets on which the process listens."""
    inodes = set()
    for fd in (PROC / str(pid) / "fd").iterdir():
        with suppress(OSError):
            inodes.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes:
                found.append(parse_address(local.partition(":")[0]))
    return found


def parse_address(digits: str) -> Address:
    """Return the address that /proc/net writes as 32-bit words in the machine's byte order."""
    words = [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
    address = ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
    return getattr(address, "ipv4_mapped", None) or address


def child(parent: int, rank: int) -> int:
    """Return the id of the child process with this rank; needs Linux's /proc."""
    for pid in descendants(parent):
        with suppress(OSError):
            if f"RANK={rank}".encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                return pid
    pytest.skip("needs /proc")
