"""Fixtures of the fine-tuning tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gtacli.training.loop as loop
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import Interrupted
from gtacli.finetuning.run import finetune
from gtacli.finetuning.task import FinetuneTask


@pytest.fixture
def config(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., FinetuneConfig]:
    """Return a function that creates the config of three epochs of four batches, with changes.

    GTA's strength is set, and a new classifier starts at zero: what a test does not change is not
    chosen by the program.
    """

    def make(**changes: Any) -> FinetuneConfig:
        values = {
            "model": str(tiny_model),
            "data": str(tiny_data),
            "out": tmp_path / "run",
            "epochs": 3,
            "batch_size": 4,
            "lr": 1e-3,
            "hold_out": 20.0,  # by default classes this small give nothing
            "device": "cpu",
            "workers": 0,
            "head_init": "random",
        }
        first = changes.get("regularizer", "gta")
        if (first if isinstance(first, str) else next(iter(first), None)) == "gta":
            values["lam"] = 0.1
        return FinetuneConfig(**{**values, **changes})

    return make


@pytest.fixture
def interrupted(
    recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[FinetuneConfig, int, int], dict[str, Any]]:
    """Return a function that stops a run after a batch, resumes it and returns the summary."""

    def run(config: FinetuneConfig, epoch: int = 1, batch: int = 2) -> dict[str, Any]:
        def stop(*now: int) -> None:
            if now == (epoch, batch):
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(loop, "CHECK_EVERY", 1)
        recorder.at_step = stop
        with pytest.raises(Interrupted):
            finetune(config, recorder)
        recorder.at_step = lambda epoch, batch: None
        torch.manual_seed(99)  # the resumed process starts elsewhere
        return finetune(FinetuneConfig(resume=config.out), recorder)

    return run


@pytest.fixture
def not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source's weights stay as they are, so that they can be compared."""
    monkeypatch.setattr("gtacli.finetuning.source.pack", lambda model, *_: model)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the jobs that `finetune` prepares during the test."""
    import gtacli.finetuning.run as module

    prepared: list[Any] = []
    original = module.prepare

    def spy(*args: Any, **kwargs: Any) -> Any:
        prepared.append(original(*args, **kwargs))
        return prepared[-1]

    monkeypatch.setattr(module, "prepare", spy)
    return prepared


@pytest.fixture
def passed(jobs: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Record the weights after every optimizer step of the test, in float64."""
    steps: list[dict[str, torch.Tensor]] = []
    original = FinetuneTask.after_step

    def spy(self: FinetuneTask, optimizer: Any) -> None:
        original(self, optimizer)
        steps.append({k: v.double() for k, v in self.tapped.model.state_dict().items()})

    monkeypatch.setattr(FinetuneTask, "after_step", spy)
    return steps
