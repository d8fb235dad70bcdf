"""Tests of the choice of device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gtacli.errors import UsageError
from gtacli.runtime import devices
from gtacli.runtime.devices import choose_compute
from gtacli.runtime.processes import ProcessInfo

MULTIPLIES = devices.multiplies_bf16  # the tests' own settings replace it


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Simulate two GPUs; return the list of devices that are made current."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **k: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def fake_processes(monkeypatch: pytest.MonkeyPatch, local_size: int = 2) -> None:
    monkeypatch.setattr(devices, "process_info", lambda: ProcessInfo(3, 4, 1, local_size))


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_process_gets_its_own_gpu(
    device: str, two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_compute(device, "auto").device == torch.device("cuda")
    fake_processes(monkeypatch)
    assert choose_compute(device, "auto").device == torch.device("cuda:1")
    assert two_gpus == [torch.device("cuda:1")]
    assert choose_compute("cpu", "auto").device.type == "cpu"


def test_processes_cannot_share_a_gpu(
    two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_processes(monkeypatch)
    with pytest.raises(UsageError, match="2 processes cannot share cuda:1; use cuda"):
        choose_compute("cuda:1", "auto")
    fake_processes(monkeypatch, 3)
    with pytest.raises(UsageError, match="3 processes here, but 2 CUDA devices"):
        choose_compute("auto", "auto")


def test_processes_divide_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(devices, "usable_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    choose_compute("cpu", "fp32")
    fake_processes(monkeypatch)
    choose_compute("cpu", "fp32")
    assert given == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    choose_compute("cpu", "fp32")
    assert given == [3]


def test_threads_follow_the_time_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(devices, "usable_cores", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    choose_compute("cpu", "fp32")
    assert given == [3]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True, "architecture": "aarch64"}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_bf16_of_the_processor(
    found: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert MULTIPLIES() is expected


def test_older_torch_does_not_know_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert MULTIPLIES() is False


def test_frozen_networks_are_read_in_bf16(reads_in_bf16: None) -> None:
    compute = choose_compute("cpu", "auto")
    assert (compute.precision, compute.frozen.precision) == ("fp32", "bf16")
    assert compute.frozen.frozen == compute.frozen
    for asked in ("fp32", "bf16"):
        given = choose_compute("cpu", asked)
        assert (given.precision, given.frozen.precision) == (asked, asked)
        assert compute.at(asked).frozen.precision == asked
    assert compute.at("auto") == compute


def test_without_bf16_frozen_networks_are_as_others() -> None:
    compute = choose_compute("cpu", "auto")
    assert compute.frozen == compute
    assert compute.precision == "fp32"


def test_batches_are_filled_where_their_size_changes_results() -> None:
    images = [torch.full((1, 2), float(i)) for i in range(3)]
    cpu = choose_compute("cpu", "fp32")
    assert cpu.stack(images, 5).shape == (3, 1, 2)
    full = cpu.at("bf16").stack(images, 5)
    assert full[:, 0, 0].tolist() == [0, 1, 2, 2, 2]
    assert cpu.at("bf16").stack(images, 2).shape == (3, 1, 2)
    cuda = replace(cpu, device=torch.device("cuda"))
    assert cuda.stack(images, 5).shape == (5, 1, 2)


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 0), (4, 2), (64, 2)])
def test_few_cores_load_in_the_training_process(
    cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: cores)
    cpu = torch.device("cpu")
    assert devices.choose_workers(None, cpu, cached=False) == workers
    assert devices.choose_workers(None, cpu, cached=True) == 0
    assert devices.choose_workers(3, cpu, cached=True) == 3
