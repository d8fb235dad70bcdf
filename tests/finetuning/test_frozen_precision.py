"""Tests of a source that is read in bf16 while the target trains in fp32."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.models.packed_linear import PackedLinear

Make = Callable[..., FinetuneConfig]
pytestmark = pytest.mark.usefixtures("reads_in_bf16")


def layers(model: torch.nn.Module) -> set[torch.dtype]:
    return {m.dtype for m in model.modules() if isinstance(m, PackedLinear)}


def test_the_steps_read_a_copy(config: Make) -> None:
    """Regularizers get both networks' values in one precision."""
    job = prepare(config())
    assert job.source is not None
    assert job.task._source is not None
    assert layers(job.source.model) == {torch.float32}
    assert layers(job.task._source[0].model) == {torch.bfloat16}
    assert layers(job.target.model) == set()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    exact = prepare(config(precision="fp32")).task.run_source(images).row
    rows = job.task.run_source(images).row
    for row, other in zip(rows, exact, strict=True):
        assert row.dtype == torch.float32
        assert 0 < (row - other).norm() < 0.03 * other.norm()


def test_no_copy_where_the_weights_are_shared(config: Make) -> None:
    job = prepare(config(train="lora:2"))
    assert job.source is not None
    assert job.task._source is not None
    assert job.task._source[0].model is job.source.model
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert all(row.dtype == torch.float32 for row in job.task.run_source(images).row)


def test_drift_is_exact(config: Make, recorder: Any) -> None:
    """It is 0 where nothing has changed, not a distance of rounding errors."""
    finetune(config(freeze_epochs=1, epochs=2), recorder)
    assert recorder.rows[0]["attention_drift"] < 1e-8 < recorder.rows[1]["attention_drift"]


def test_the_penalty_is_close_to_that_of_fp32(config: Make, recorder: Any, tmp_path: Path) -> None:
    finetune(config(epochs=2, out=tmp_path / "half"), recorder)
    finetune(config(epochs=2, out=tmp_path / "full", precision="fp32"), recorder)
    half, full = recorder.rows[1], recorder.rows[3]
    assert half["ce"] == pytest.approx(full["ce"], rel=1e-2)
    assert half["reg.gta"] == pytest.approx(full["reg.gta"], rel=0.1)
    record = json.loads((tmp_path / "half" / "run.json").read_text())
    assert (record["precision"], record["frozen_precision"]) == ("fp32", "bf16")


def test_resumed_bit_for_bit(config: Make, recorder: Any, interrupted: Any, tmp_path: Path) -> None:
    finetune(config(out=tmp_path / "whole"), recorder)
    interrupted(config(out=tmp_path / "cut"))
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_cached_views(config: Make, recorder: Any) -> None:
    finetune(config(source_views=1, epochs=1), recorder)
    assert recorder.rows[0]["reg.gta"] >= 0
