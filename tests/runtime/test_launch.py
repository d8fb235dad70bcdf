"""Tests of `gta finetune --nproc`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gtacli.cli import main
from gtacli.runtime.launch import _describe_failure


def words(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "finetune", "-m", str(model), "--data", str(data), "-o", str(out), "--device", "cpu",
        "--batch-size", "8", "--workers", "0", "--epochs", "2", "--nproc", "2", *more,
    ]  # fmt: skip


def test_one_process_prints_result_and_log(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(words(tiny_model, tiny_data, tmp_path / "run", "--json")) == 0
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    assert json.loads(line)["n_test"] == 12
    assert err.count("epoch 2,") == 1
    assert "W1" not in err  # the agent's log


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
    gta = subprocess.Popen(
        [sys.executable, "-m", "gtacli", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    end = time.monotonic() + 60
    while not (run / "state.pt").exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(gta.pid if to is None else child(gta.pid, to), number)
    out, err = gta.communicate(timeout=60)
    assert gta.returncode == status
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err
    assert (run / "state.pt").exists()


def child(parent: int, rank: int) -> int:
    """Return the id of the child process with this rank; needs Linux's /proc."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (entry / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if above == parent and f"RANK={rank}".encode() in environment:
            return int(entry.name)
    pytest.skip("needs /proc")
