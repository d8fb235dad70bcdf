"""Tests of the runs that the demo plans."""

from __future__ import annotations

from pathlib import Path

from gtacli.config.demo import DemoConfig
from gtacli.demo.runs import plan_runs


def test_every_cpu_computes_in_one_precision(reads_in_bf16: None, tmp_path: Path) -> None:
    runs = plan_runs(DemoConfig(device="cpu"), tmp_path)
    assert {run.config.precision for run in runs} == {"fp32"}
