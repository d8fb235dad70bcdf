"""Tests of the parts of a batch that fit into memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gtacli.training.batch_parts as parts
from gtacli.config.finetune import FinetuneConfig
from gtacli.config.pretrain import PretrainConfig
from gtacli.errors import GtaError, RunError
from gtacli.finetuning import folds
from gtacli.finetuning.run import finetune
from gtacli.finetuning.task import FinetuneTask
from gtacli.pretraining.run import pretrain
from gtacli.pretraining.task import PretrainTask
from gtacli.regularizers.gta import GTA
from gtacli.runtime.distribution import ALONE


@pytest.fixture
def config(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., FinetuneConfig]:
    def make(**changes: Any) -> FinetuneConfig:
        values = {"model": str(tiny_model), "data": str(tiny_data), "out": tmp_path / "run"}
        fixed = {"epochs": 3, "batch_size": 4, "lr": 1e-3, "lam": 0.1, "head_init": "random"}
        return FinetuneConfig(**{**values, **fixed, "device": "cpu", "workers": 0, **changes})

    return make


@pytest.mark.parametrize("most", [0, 1, 2, 3, 11, 12, 47, 48, 95, 96, 500])
def test_the_largest_size_that_fits_is_found_by_few_steps(most: int) -> None:
    sizes = parts.part_sizes(96)
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= most

    expected = max((size for size in sizes if size <= most), default=None)
    assert parts.largest_fitting(sizes, fits) == expected
    assert len(asked) == len({*asked}) <= 10
    assert max(asked) <= max(1, 3 * most)  # no step is far beyond the memory


def test_parts_are_equal_and_each_process_gets_its_views() -> None:
    assert parts.part_sizes(12) == [1, 2, 3, 4, 6, 12]
    assert parts.part_sizes(12, repeats=2) == [2, 4, 6, 12]
    assert parts.part_sizes(24, repeats=2, least=6) == [6, 8, 12, 24]
    assert parts.part_sizes(7, least=2) == [7]


def forward_up_to(
    most: int, monkeypatch: pytest.MonkeyPatch, task: Any = FinetuneTask
) -> list[int]:
    """Let steps on more images fail as on a GPU; return the numbers of images of all steps."""
    forward, counts = task.forward, []

    def limited(self: Any, batch: Any) -> Any:
        if self.training:
            counts.append(len(batch.images))
            if len(batch.images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, batch)

    monkeypatch.setattr(task, "forward", limited)
    return counts


def resolved(run: Path) -> Any:
    found = json.loads((run / "run.json").read_text())["resolved"]
    return {key: found[key] for key in ("batch_size", "accumulate") if key in found}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_batch_that_is_too_large_is_taken_in_parts(
    config: Callable[..., FinetuneConfig], recorder: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    common = {"drop_path": 0.1, "source_views": 2, "epochs": 1}
    by_hand = config(out=tmp_path / "hand", batch_size=4, accumulate=3, **common)
    finetune(by_hand, recorder)
    counts = forward_up_to(5, monkeypatch)
    finetune(config(out=tmp_path / "auto", batch_size=12, fit_memory=True, **common), recorder)
    assert resolved(tmp_path / "auto") == {"batch_size": 4, "accumulate": 3}
    assert counts[:5] == [1, 2, 4, 12, 6]
    assert "4 images at a time; an optimizer step has 3 x 4" in caplog.text
    assert same(tmp_path / "auto", tmp_path / "hand")  # the trial has left nothing behind


def test_a_resumed_run_keeps_its_parts(
    config: Callable[..., FinetuneConfig], recorder: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Killed(Exception):
        pass

    def kill(row: dict[str, Any]) -> None:
        raise Killed

    run = tmp_path / "run"
    recorder.at_epoch = kill
    with monkeypatch.context() as limited:
        forward_up_to(2, limited)
        with pytest.raises(Killed):
            finetune(config(fit_memory=True, epochs=2), recorder)
    assert resolved(run) == {"batch_size": 2, "accumulate": 2}
    recorder.at_epoch = lambda row: None
    counts = forward_up_to(1000, monkeypatch)
    finetune(FinetuneConfig(resume=run), recorder)
    assert {*counts} == {2}
    record = json.loads((run / "run.json").read_text())
    record["resolved"]["batch_size"] = 3
    (run / "run.json").write_text(json.dumps(record))
    (run / "summary.json").unlink()
    with pytest.raises(GtaError, match="`batch_size` of 3, which is no part of 4"):
        finetune(FinetuneConfig(resume=run), recorder)


def test_nothing_fits(
    config: Callable[..., FinetuneConfig], recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward_up_to(0, monkeypatch)
    with pytest.raises(RunError, match="full with 1 images at a time; use a smaller `image_size`"):
        finetune(config(fit_memory=True), recorder)


def test_a_full_memory_later_names_the_way_out(
    config: Callable[..., FinetuneConfig], recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward_up_to(3, monkeypatch)
    line = "with 4 images at a time; use `batch_size=auto`, .* or `batch_size=2`"
    with pytest.raises(RunError, match=line):
        finetune(config(), recorder)


@pytest.fixture
def pretraining(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., PretrainConfig]:
    def make(**changes: Any) -> PretrainConfig:
        values = {"model": str(tiny_model), "data": str(tiny_data), "epochs": 1, "lr": 1e-3}
        values |= {"knn_every": 0, "previews_every": 0}
        decoder = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
        common = {"batch_size": 12, "repeats": 2, "device": "cpu", "workers": 0}
        return PretrainConfig(**{**values, **decoder, **common, **changes})

    return make


def test_parts_of_a_pretraining_are_its_batches(
    pretraining: Callable[..., PretrainConfig], recorder: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Masks depend on the image alone, and incomplete batches are dropped as without parts."""
    pretrain(pretraining(out=tmp_path / "whole"), recorder)
    rows = recorder.rows[:]
    recorder.rows.clear()
    counts = forward_up_to(5, monkeypatch, PretrainTask)
    pretrain(pretraining(out=tmp_path / "auto", fit_memory=True), recorder)
    assert resolved(tmp_path / "auto") == {"batch_size": 4, "accumulate": 3}
    assert counts[-9:] == [4] * 9  # 18 images, 2 views: 3 x 12 of them
    for before, after in zip(rows, recorder.rows, strict=True):
        assert after["train_loss"] == pytest.approx(before["train_loss"], rel=1e-4)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "auto")
    assert all(torch.allclose(one[key], other[key], atol=2e-3) for key in one)


def test_an_incomplete_batch_is_dropped_with_all_its_parts(
    pretraining: Callable[..., PretrainConfig], recorder: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    counts = forward_up_to(5, monkeypatch, PretrainTask)
    config = pretraining(out=tmp_path / "auto", batch_size=16, fit_memory=True)
    pretrain(config, recorder)
    assert counts[-8:] == [4] * 8  # 2 x 16 of 36 views
    assert counts[:-8] == [2, 4, 8]  # the trial


class Machine:
    """A machine on which a step takes 1000 bytes and 100 for each image."""

    def __init__(self, free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peak, self.steps = 5000, []
        monkeypatch.setattr(parts, "available_memory", lambda: free)
        monkeypatch.setattr(parts, "resident_memory", lambda: 5000)
        monkeypatch.setattr(parts, "peak_memory", lambda: self.peak)
        monkeypatch.setattr(parts, "reset_peak_memory", lambda: None)
        monkeypatch.setattr(parts.Trial, "_step", lambda trial, images: self.step(images))

    def step(self, images: int) -> None:
        self.steps.append(images)
        self.peak = 6000 + 100 * images


@pytest.mark.parametrize(
    ("free", "found"), [(None, 48), (10_000, 48), (4000, 16), (2000, 6), (1400, 1), (1000, None)]
)
def test_the_free_memory_of_a_machine_decides_before_a_step_is_taken(
    free: int | None, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    place = SimpleNamespace(device=torch.device("cpu"))
    job: Any = SimpleNamespace(optimizer=optimizer, compute=place, processes=ALONE)
    machine = Machine(free, monkeypatch)
    trial = parts.Trial(job, 1, None)
    trial._taken = [(0, 1000)]  # of a step without images
    assert trial.largest(parts.part_sizes(48)) == found
    if free is not None and found is not None:
        assert max(machine.steps) == found


PROGRAM = """
import resource, sys
from gtacli.cli import main
import gtacli.finetuning.run  # what is imported takes address space, too
from gtacli.runtime.process_memory import status_bytes
room = int(float(sys.argv[1]) * 2**20)
limit = status_bytes("VmSize") + room
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_limit_of_the_address_space(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    """A batch that does not fit below `ulimit -v` is taken in parts."""
    words = ["finetune", "--model", str(tiny_model), "--data", str(tiny_data), "--epochs", "1",
             "--lam", "0.1", "--workers", "0", "--batch-size", "384",
             "--image-size", "256"]  # fmt: skip

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, "700", *words, *more]
        env = {**os.environ, "GTA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    out = tmp_path / "run"
    done = run("--out", str(out), "--fit-memory")
    assert done.returncode == 0, done.stderr[-2000:]
    found = resolved(out)
    assert 1 < found["batch_size"] < 384
    assert found["batch_size"] * found["accumulate"] == 384


def test_images_with_any_number_of_labels(
    config: Callable[..., FinetuneConfig], label_table: Path, recorder: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    forward_up_to(2, monkeypatch)
    several = config(data=str(label_table), multi_label=True, fit_memory=True, epochs=1)
    finetune(several, recorder)
    assert resolved(tmp_path / "run") == {"batch_size": 2, "accumulate": 2}


def test_a_regularizer_that_starts_with_a_pass_over_the_images(
    config: Callable[..., FinetuneConfig], recorder: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It has not started at the trial of memory."""
    started: list[int] = []
    penalty = GTA.penalty

    def start(self: GTA, read: Any, classes: int) -> None:
        started.append(classes)

    def only_then(self: GTA, outputs: Any) -> Any:
        assert started
        return penalty(self, outputs)

    monkeypatch.setattr(GTA, "start", start)
    monkeypatch.setattr(GTA, "penalty", only_then)
    forward_up_to(2, monkeypatch)
    finetune(config(fit_memory=True, epochs=1), recorder)
    assert resolved(tmp_path / "run") == {"batch_size": 2, "accumulate": 2}
    assert started == [3]


def test_the_folds_are_trained_in_the_parts_of_the_run(
    config: Callable[..., FinetuneConfig], recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    phase = folds.run_phase

    def spy(job: Any, *args: Any, **more: Any) -> Any:
        seen.append((job.config.batch_size, job.config.accumulate))
        return phase(job, *args, **more)

    monkeypatch.setattr(folds, "run_phase", spy)
    forward_up_to(2, monkeypatch)
    finetune(config(fit_memory=True, epochs=1, hold_out="auto", folds=2), recorder)
    assert seen == [(2, 2)] * 2
