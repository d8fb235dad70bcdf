"""A small fine-tuning run, ready to start."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

import gtacli.training.loop as loop
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import Interrupted
from gtacli.training.finetune import finetune


class Recorder:
    """Watches a run; may be told to do something at a step or an epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.at_epoch: Callable[[dict[str, Any]], None] = lambda row: None
        self.at_step: Callable[[int, int], None] = lambda epoch, batch: None

    def step(self, epoch: int, batch: int, batches: int, epochs: int, loss: float) -> None:
        self.at_step(epoch, batch)

    def epoch(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.at_epoch(row)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def config(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., FinetuneConfig]:
    """FinetuneConfig of a run of three epochs of four batches, with changes."""

    def make(**changes: Any) -> FinetuneConfig:
        values = {
            "model": str(tiny_model),
            "data": str(tiny_data),
            "out": tmp_path / "run",
            "epochs": 3,
            "batch_size": 4,
            "lr": 1e-3,
            "device": "cpu",
            "workers": 0,
        }
        return FinetuneConfig(**{**values, **changes})

    return make


@pytest.fixture
def interrupted(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> Callable[[FinetuneConfig, int, int], dict[str, Any]]:
    """Run a config, stop it after a batch of an epoch, and resume it: the summary."""

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
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The jobs that `finetune` prepares during the test."""
    import gtacli.training.finetune as module

    prepared: list[Any] = []
    original = module.prepare

    def spy(*args: Any, **kwargs: Any) -> Any:
        prepared.append(original(*args, **kwargs))
        return prepared[-1]

    monkeypatch.setattr(module, "prepare", spy)
    return prepared


@pytest.fixture
def together() -> Callable[..., list[Any]]:
    """`together(work, size)`: work(rank) in `size` processes as torchrun starts them, and what each
    returned, or the exception that ended it (None for one that was killed)."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    fork = multiprocessing.get_context("fork")

    def child(work: Callable[[int], Any], rank: int, pipe: Any) -> None:
        os.environ.update(pipe.recv())
        try:
            result = work(rank)
        except BaseException as error:
            result = error
        pipe.send(result)
        pipe.close()
        os._exit(0)

    def run(work: Callable[[int], Any], size: int = 2) -> list[Any]:
        started = []
        for rank in range(size):
            mine, theirs = fork.Pipe()
            process = fork.Process(target=child, args=(work, rank, theirs))
            process.start()
            theirs.close()
            started.append((process, mine))
        # After the last fork: the store's thread may hold a lock of the C library's.
        store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        for rank, (_, pipe) in enumerate(started):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            master = {"MASTER_ADDR": "localhost", "MASTER_PORT": store.port}
            env = {**place, **master, "TORCHELASTIC_USE_AGENT_STORE": True}
            pipe.send({name: str(value) for name, value in env.items()})
        results = []
        for process, pipe in started:
            try:
                results.append(pipe.recv() if pipe.poll(120) else TimeoutError())
            except EOFError:
                results.append(None)
            process.kill()
            process.join()
        return results

    return run
