"""The cost model: FLOPs as torch counts them, rates by their slowest stage, the page's tables."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from gtacli.models.mae import MaskedAutoencoder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def constants() -> dict[str, Any]:
    return tomllib.loads((ROOT / "benchmarks" / "scaling.toml").read_text())


def counted(network: torch.nn.Module, *inputs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large"])
def test_flops_of_a_forward_pass_are_torchs(scaling: ModuleType, name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(f"vit_{name}_patch16_224", num_classes=0).eval()
        flops = counted(network, torch.empty(1, 3, 224, 224))
    shape = scaling.SHAPES[name]
    assert scaling.forward_flops(shape) == flops
    params = sum(p.numel() for p in network.parameters()) / 1e6
    assert shape.params == pytest.approx(params, rel=0.02)


def test_flops_of_a_masked_autoencoder_are_torchs(scaling: ModuleType) -> None:
    encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    network = MaskedAutoencoder(encoder, (224, 224), "mae", norm_pix=True).eval()
    flops = counted(network, torch.zeros(1, 3, 224, 224), torch.arange(196)[None])
    assert scaling.mae_flops(scaling.SHAPES["tiny"]) == flops


def test_the_source_costs_less_than_a_forward_pass(scaling: ModuleType) -> None:
    shape = scaling.SHAPES["small"]
    blocks = scaling.forward_flops(shape) - scaling.source_flops(shape)
    assert 0 < blocks < scaling.block_flops(shape.width, 197)


def test_times_add_up_on_a_cpu_and_overlap_with_a_gpu(
    scaling: ModuleType, constants: dict[str, Any]
) -> None:
    core = {"decode_ms": 10, "augment_ms": 5, "cut_ms": 20, "fp32_gflops": 1, "bf16_gflops": 2}
    c = {**constants, "core": core, "gpu": {**constants["gpu"], "tflops": 1, "utilization": 0.5}}
    machine = {"cores": 2, "gpus": 0, "bytes_per_second": 1e9, "opens_per_second": 1e9}
    task = scaling.Task(trained=10**8, read=0, augmented=True, cut=True, written=0)
    seconds = (10 + 5 + 20) / 1000 / 2 + 1e8 / 1e9 / 2
    assert scaling.rate(task, machine, c) == (pytest.approx(1 / seconds), "network")
    assert scaling.rate(task, {**machine, "gpus": 1}, c) == (pytest.approx(2 / 0.015), "decoding")
    slow = {**machine, "bytes_per_second": c["image"]["jpeg_bytes"]}
    assert scaling.rate(task, slow, c) == (pytest.approx(1), "reading")


@given(st.integers(1, 64), st.sampled_from(["core", "server", "gpu", "node", "cluster"]))
def test_more_of_everything_is_proportionally_faster(
    scaling: ModuleType, constants: dict[str, Any], times: int, name: str
) -> None:
    machine = constants["machines"][name]
    larger = {k: v if isinstance(v, str) else v * times for k, v in machine.items()}
    for task in scaling.tasks(scaling.SHAPES["small"]).values():
        (before, why), (after, same) = (scaling.rate(task, m, constants) for m in (machine, larger))
        assert after == pytest.approx(times * before)
        assert why == same


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (9.16, "9.2"), (1234, "1,200"), (0.0123, "0.012")]
)
def test_digits(scaling: ModuleType, value: float, text: str) -> None:
    assert scaling.digits(value) == text


def test_sizes_and_durations(scaling: ModuleType) -> None:
    assert [scaling.size(x) for x in (244, 1.1e15, 3e18)] == ["240 B", "1.1 PB", "3,000 PB"]
    found = [scaling.duration(x) for x in (30, 90, 7200, 86400 * 3, 86400 * 730)]
    assert found == ["30 s", "1.5 min", "2 h", "3 days", "2 years"]


def test_the_page_has_the_tables(scaling: ModuleType, constants: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    for table in scaling.tables(constants):
        assert table in page
