"""Tests of resuming: the weights equal those of an uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gtacli.training.loop as loop
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import GtaError, Interrupted, RunError, UsageError
from gtacli.finetuning.run import finetune

Make = Callable[..., FinetuneConfig]


class Killed(Exception):
    """An exception in place of SIGKILL."""


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("refit", [False, True])
def test_resume_after_kill(refit: bool, config: Make, recorder: Any, tmp_path: Path) -> None:
    whole = finetune(config(out=tmp_path / "whole", refit=refit), recorder)

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] == 1 and (not refit or row.get("phase")):
            raise Killed

    if refit and whole["best_epoch"] < 1:
        pytest.fail("the refit is too short to be killed; change the seed")
    recorder.at_epoch = kill
    with pytest.raises(Killed):
        finetune(config(out=tmp_path / "cut", refit=refit), recorder)
    recorder.at_epoch = lambda row: None
    again = finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    for key in ("test_top1", "best_epoch", "attention_drift", "n_train", "val_top1"):
        assert again[key] == whole[key]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_resume_within_an_epoch(
    number: int, config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drop path and the head's dropout draw from the global random numbers.
    finetune(config(out=tmp_path / "whole"), recorder)
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)

    def stop(epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 2):
            os.kill(os.getpid(), number)

    recorder.at_step = stop
    with pytest.raises(Interrupted, match=r"epoch 2, batch [23].*`resume`"):
        finetune(config(out=tmp_path / "cut"), recorder)
    recorder.at_step = lambda epoch, batch: None
    finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3


def test_random_state_is_restored() -> None:
    import random

    import numpy as np

    from gtacli.runtime import rng

    rng.seed_everything(3)
    random.gauss(0, 1)
    np.random.standard_normal()
    state = rng.capture()
    drawn = (random.random(), random.gauss(0, 1), np.random.standard_normal(3), torch.rand(3))
    rng.restore(state)
    again = (random.random(), random.gauss(0, 1), np.random.standard_normal(3), torch.rand(3))
    assert drawn[:2] == again[:2]
    assert (drawn[2] == again[2]).all()
    assert torch.equal(drawn[3], again[3])


def test_resumed_run_keeps_its_configuration(
    config: Make, recorder: Any, tmp_path: Path, tiny_data: Path
) -> None:
    finetune(config(epochs=1), recorder)
    run = tmp_path / "run"
    with pytest.raises(UsageError, match=r"resume: `lr` was 0\.001"):
        finetune(FinetuneConfig(resume=run, lr=0.5), recorder)
    finetune(FinetuneConfig(resume=run, lr=0.001, device="cpu"), recorder)  # the same: no quarrel
    (tiny_data / "train" / "red" / "5.png").unlink()
    with pytest.raises(GtaError, match="has changed since the run began"):
        finetune(FinetuneConfig(resume=run), recorder)


def test_invalid_resume(config: Make, recorder: Any, tmp_path: Path) -> None:
    with pytest.raises(GtaError, match="run folder"):
        finetune(FinetuneConfig(resume=tmp_path / "nowhere"), recorder)
    finetune(config(epochs=1), recorder)
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(GtaError, match="damaged"):
        finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)


def test_non_finite_loss(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtacli.regularizers.gta import GTA

    penalty = GTA.penalty
    calls = []

    def explode(self: GTA, step: Any) -> torch.Tensor:
        calls.append(1)
        value = penalty(self, step)
        return value * float("nan") if len(calls) == 7 else value  # the second epoch's third batch

    monkeypatch.setattr(GTA, "penalty", explode)
    with pytest.raises(
        RunError, match=r"loss is not finite in epoch 2, batch 3; the state before it"
    ):
        finetune(config(), recorder)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["progress"]["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    monkeypatch.setattr(GTA, "penalty", penalty)
    finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)
    finetune(config(out=tmp_path / "whole"), recorder)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_non_finite_weights_after_last_gradient(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of an epoch's last batch is finite, its gradient is not."""
    finetune(config(epochs=2, out=tmp_path / "good"), recorder)
    step = torch.optim.AdamW.step
    calls = []

    def spoil(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        result = step(self, *args, **kwargs)
        if len(calls) == 8:  # the last of epoch 1
            self.param_groups[0]["params"][0].data.fill_(float("nan"))
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(RunError, match=r"weights are not finite in epoch 2; the state before it"):
        finetune(config(), recorder)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "run").values())


def test_folder_of_another_command(config: Make, recorder: Any, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="not a run of gta finetune"):
        finetune(FinetuneConfig(resume=tmp_path), recorder)
    finetune(config(epochs=1), recorder)
    with pytest.raises(UsageError, match="leave out `out`"):
        finetune(FinetuneConfig(resume=tmp_path / "run", out=tmp_path / "else"), recorder)


def test_changed_weights_file(
    config: Make, recorder: Any, tmp_path: Path, tiny_model: Path
) -> None:
    finetune(config(epochs=1), recorder)
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = tiny_model / "model.safetensors"
    with safe_open(file, "pt") as f:
        meta = f.metadata()
    tensors = load_file(file)
    tensors["norm.weight"] += 1
    save_file(tensors, file, meta)
    with pytest.raises(GtaError, match=r"resume: `model` .* has changed since the run began"):
        finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)


def test_workers_ignore_signals(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group."""
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    finetune(config(out=tmp_path / "whole"), recorder)
    import multiprocessing

    def stop(epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 1):
            for child in multiprocessing.active_children():
                with suppress(ProcessLookupError):  # another test's
                    os.kill(child.pid, signal.SIGTERM)  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGTERM)

    recorder.at_step = stop
    with pytest.raises(Interrupted):
        finetune(config(out=tmp_path / "cut", workers=2, accumulate=1), recorder)
    recorder.at_step = lambda epoch, batch: None
    finetune(FinetuneConfig(resume=tmp_path / "cut", workers=0), recorder)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_run_without_a_state_begins_anew(
    config: Make, recorder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finetune(config(epochs=1, out=tmp_path / "whole"), recorder)
    finetune(config(epochs=1), recorder)
    run = tmp_path / "run"
    for file in run.iterdir():
        if file.name != "run.json":
            file.unlink()
    with caplog.at_level("INFO"):
        finetune(FinetuneConfig(resume=run), recorder)
    assert "has no state yet" in caplog.text
    assert same(weights(tmp_path / "whole"), weights(run))
    assert (run / "split.json").read_text() == (tmp_path / "whole" / "split.json").read_text()


def test_folder_of_a_run_that_has_not_begun(tmp_path: Path, recorder: Any) -> None:
    """A kill before the record leaves a lock file, or nothing."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".gta-lock").write_text("{}")
    with pytest.raises(UsageError, match=r"resume: .*run has no record of a run; start it by its"):
        finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)


def test_automatic_resume_needs_a_folder(config: Make, recorder: Any) -> None:
    with pytest.raises(UsageError, match="resume: auto: name the run's folder"):
        finetune(config(resume=Path("auto"), out=None), recorder)


def test_automatic_resume_keeps_the_options(config: Make, recorder: Any) -> None:
    finetune(config(epochs=1, resume=Path("auto")), recorder)
    with pytest.raises(UsageError, match=r"resume: `lr` was 0\.001"):
        finetune(config(epochs=1, resume=Path("auto"), lr=0.5), recorder)


def test_edited_records_are_refused(config: Make, recorder: Any, tmp_path: Path) -> None:
    import json

    finetune(config(epochs=1), recorder)
    run = tmp_path / "run"
    record, split = (run / "run.json").read_text(), (run / "split.json").read_text()
    edited = json.loads(record)
    edited["config"]["lr"] = 0.5
    (run / "run.json").write_text(json.dumps(edited))
    with pytest.raises(GtaError, match=r"run\.json was changed: `lr` was 0\.001 in training"):
        finetune(FinetuneConfig(resume=run), recorder)
    (run / "run.json").write_text(record)
    other = json.loads(split)
    other["train"] = other["train"][1:]
    (run / "split.json").write_text(json.dumps(other))
    with pytest.raises(GtaError, match=r"split\.json is not the split of this run \(`train`\)"):
        finetune(FinetuneConfig(resume=run), recorder)
    (run / "split.json").write_text(split)
    finetune(FinetuneConfig(resume=run), recorder)


def test_images_edited_at_equal_size_are_refused(
    config: Make,
    recorder: Any,
    tmp_path: Path,
    tiny_data: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gtacli.data import contents

    finetune(config(epochs=1), recorder)
    image = tiny_data / "train" / "red" / "3.png"
    stat, data = image.stat(), image.read_bytes()
    image.write_bytes(data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # size and time say nothing
    with pytest.raises(GtaError, match="has changed since the run began: images with other"):
        finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)
    image.write_bytes(data)
    os.utime(image, (1, 1))  # a copy of the same images
    finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)
    assert "other times" not in caplog.text
    monkeypatch.setattr(contents, "IMAGES", 5)
    finetune(config(epochs=1, overwrite=True), recorder)
    os.utime(image, (2, 2))
    finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)
    assert "other times than when the run began" in caplog.text


def test_a_damaged_summary_is_not_printed(config: Make, recorder: Any) -> None:
    again = config(epochs=1, resume=Path("auto"))
    whole = json.loads(json.dumps(finetune(again, recorder)))
    assert again.out is not None
    file = again.out / "summary.json"
    for change, said in {
        '{"test_top1": "high"}': "'test_top1' must be a number, got 'high'",
        '{"n_train": 1.5}': "'n_train' must be a whole number",
        '{"worst_classes": {}}': "'worst_classes' must be a list",
        '{"seconds": true}': "'seconds' must be a number",
        '{"command": "pretrain"}': "'command' must be",
    }.items():
        file.write_text(json.dumps({**whole, **json.loads(change)}))
        with pytest.raises(GtaError, match=r"summary\.json: ") as caught:
            finetune(again, recorder)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    # An entry that an earlier version had not, or that a later one has, is no damage.
    other = {**whole, "later": [1]}
    del other["worst_classes"]
    file.write_text(json.dumps(other))
    assert finetune(again, recorder) == other
