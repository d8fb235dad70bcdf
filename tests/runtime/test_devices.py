"""Which device a process takes."""

from __future__ import annotations

import pytest
import torch

from gtacli.errors import UsageError
from gtacli.runtime import devices
from gtacli.runtime.devices import choose_compute
from gtacli.runtime.processes import ProcessInfo


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Pretend there are two; what is made current is noted."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **k: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def of_two(monkeypatch: pytest.MonkeyPatch, local_size: int = 2) -> None:
    monkeypatch.setattr(devices, "process_info", lambda: ProcessInfo(3, 4, 1, local_size))


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_process_has_a_gpu(
    device: str, two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_compute(device, "auto").device == torch.device("cuda")
    of_two(monkeypatch)
    assert choose_compute(device, "auto").device == torch.device("cuda:1")
    assert two_gpus == [torch.device("cuda:1")]
    assert choose_compute("cpu", "auto").device.type == "cpu"


def test_gpus_are_not_shared(two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    of_two(monkeypatch)
    with pytest.raises(UsageError, match="2 processes cannot share cuda:1; use cuda"):
        choose_compute("cuda:1", "auto")
    of_two(monkeypatch, 3)
    with pytest.raises(UsageError, match="3 processes here, but 2 CUDA devices"):
        choose_compute("auto", "auto")


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(devices, "usable_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    choose_compute("cpu", "fp32")
    of_two(monkeypatch)
    choose_compute("cpu", "fp32")
    assert given == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    choose_compute("cpu", "fp32")
    assert given == [3]
