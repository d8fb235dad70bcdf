"""Tests of usable cores, available memory and the cache folder."""

from pathlib import Path

import pytest

from gtacli.runtime import machine
from gtacli.runtime.cache import cache_dir
from gtacli.runtime.processes import ProcessInfo


def test_container_limits_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "none")
    monkeypatch.setattr(machine, "_machine", lambda: 1000)
    assert machine.available_memory() == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory() == 1000
    (tmp_path / "memory.max").write_text("700\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert machine.available_memory() == 400
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 100\n")  # given up for others
    assert machine.available_memory() == 500
    (tmp_path / "memory").mkdir()  # version 1
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("600\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("300\n")
    assert machine.available_memory() == 300
    monkeypatch.setattr(machine, "_address_space", lambda: 200)  # ulimit -v
    assert machine.available_memory() == 200
    monkeypatch.setattr(machine, "_address_space", lambda: None)
    monkeypatch.setattr(machine, "_machine", lambda: None)
    monkeypatch.setattr(machine, "_container", lambda: None)
    assert machine.available_memory() is None


def test_groups_limit_the_memory_and_the_time_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/job/step\n3:memory:/job\n0::/slice/unit\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", own)
    monkeypatch.setattr(machine, "_machine", lambda: 1000)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert machine.usable_cores() == 64
    job = tmp_path / "cpu" / "job"  # version 1, as of a queue
    job.mkdir(parents=True)
    (job / "cpu.cfs_quota_us").write_text("-1\n")
    (job / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.usable_cores() == 64
    (job / "cpu.cfs_quota_us").write_text("850000\n")
    assert machine.usable_cores() == 9
    unit = tmp_path / "slice" / "unit"  # version 2
    unit.mkdir(parents=True)
    (unit / "cpu.max").write_text("max 100000\n")
    (unit.parent / "cpu.max").write_text("150000 100000\n")
    assert machine.usable_cores() == 2
    (tmp_path / "cpu.max").write_text("50000 100000\n")  # a container's own, at its top
    assert machine.usable_cores() == 1
    (unit / "memory.max").write_text("700\n")
    (unit / "memory.current").write_text("300\n")
    assert machine.available_memory() == 400


def test_at_least_one_core() -> None:
    assert machine.usable_cores() >= 1


def test_processes_of_a_run_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = machine.usable_cores()
    monkeypatch.setattr(machine, "_machine", lambda: 1000)
    monkeypatch.setattr(machine, "_container", lambda: None)
    monkeypatch.setattr(machine, "process_info", lambda: ProcessInfo(local_size=4))
    assert machine.available_memory() == 250
    assert machine.usable_cores() == max(1, cores // 4)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GTA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path.home() / ".cache" / "gta"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/gta")
    monkeypatch.setenv("GTA_CACHE", "/y")
    assert cache_dir() == Path("/y")
