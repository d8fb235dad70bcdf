"""Tests of `average`: means of weights in place of the last ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import gtacli.finetuning.run as module
from gtacli import load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.finetuning.evaluation import Evaluation
from gtacli.finetuning.run import finetune
from gtacli.finetuning.source_average import choose_alpha, rank
from gtacli.runtime.run_folder import RunFolder

Make = Callable[..., FinetuneConfig]
Weights = dict[str, torch.Tensor]


class Killed(Exception):
    """An exception in place of SIGKILL."""


def weights(run: Path) -> Weights:
    return load_file(run / "model.safetensors")


def equal(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_mean_of_the_last_quarter_is_saved(
    config: Make, recorder: Any, passed: list[Weights], tmp_path: Path
) -> None:
    summary = finetune(
        config(average="trajectory", hold_out="none", epochs=4, batch_size=9, lr=1e-2), recorder
    )
    assert len(passed) == 8
    kept = weights(tmp_path / "run")
    for name, value in kept.items():
        expected = (passed[6][name] + passed[7][name]) / 2
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(kept["head.weight"].double(), passed[7]["head.weight"])
    assert "average_alpha" not in summary


def test_mean_is_validated(config: Make, recorder: Any, jobs: list[Any]) -> None:
    finetune(config(average="trajectory", epochs=8), recorder)
    assert jobs[0].evaluated.model is not jobs[0].target.model
    loss = recorder.rows[-1]["val_loss"]
    finetune(config(epochs=8, overwrite=True), recorder)
    assert recorder.rows[8]["val_loss"] == recorder.rows[0]["val_loss"]  # not averaged yet
    assert recorder.rows[-1]["val_loss"] != loss


@pytest.mark.parametrize("average", ["trajectory", "source"])
def test_resume(
    average: str, config: Make, recorder: Any, interrupted: Any, tmp_path: Path
) -> None:
    whole = finetune(config(out=tmp_path / "whole", average=average), recorder)
    # The last of three epochs is averaged; the run stops within it.
    again = interrupted(config(out=tmp_path / "cut", average=average), 2, 2)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    keys = ("val_top1", "test_top1", "attention_drift", "best_epoch")
    assert all(whole[key] == again[key] for key in keys)
    assert whole.get("average_alpha") == again.get("average_alpha")


def test_backbone_is_averaged_with_the_start(
    config: Make, recorder: Any, tmp_path: Path, tiny_model: Path, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    common = {"hold_out": "none", "lr": 3e-3}
    finetune(config(out=tmp_path / "plain", **common), recorder)
    summary = finetune(config(out=tmp_path / "mean", average="source", **common), recorder)
    assert (summary["average_alpha"], summary["val_top1"]) == (0.5, None)
    assert "alpha 0.5, as no image is held out" in caplog.text
    start = load_file(tiny_model / "model.safetensors")
    plain, mean = weights(tmp_path / "plain"), weights(tmp_path / "mean")
    for name, value in mean.items():
        end = plain[name].double()
        expected = end if name.startswith("head") else (start[name].double() + end) / 2
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert load_model(str(tmp_path / "mean")).classes == ("blue", "green", "red")
    # The metrics are those of the mean: nearer to the source.
    assert 0 < summary["attention_drift"] < recorder.rows[-1]["attention_drift"]


def test_alpha_is_chosen_on_held_out_images(config: Make, recorder: Any, tmp_path: Path) -> None:
    summary = finetune(config(average="source", epochs=4), recorder)
    assert summary["average_alpha"] in (0.25, 0.5, 0.75, 1.0)
    row = recorder.rows[summary["best_epoch"]]
    assert summary["val_top1"] >= row["val_top1"]
    with safe_open(tmp_path / "run" / "model.safetensors", "pt") as file:
        assert float(file.metadata()["average_alpha"]) == summary["average_alpha"]
    before = weights(tmp_path / "run")
    again = finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)  # averages only once
    assert equal(before, weights(tmp_path / "run"))
    for key in ("average_alpha", "val_top1", "attention_drift", "test_top1"):
        assert again[key] == summary[key]


def test_order_of_choice() -> None:
    found = {
        0.25: Evaluation(top1=0.9, loss=0.5),
        0.5: Evaluation(top1=0.9, loss=0.3),
        0.75: Evaluation(top1=0.9, loss=0.4),
        1.0: Evaluation(top1=0.8, loss=0.1),
    }
    loaded: list[float] = []
    averaged = choose_alpha(loaded.append, lambda: found[loaded[-1]], None)
    assert averaged.alpha == loaded[-1] == 0.5
    assert averaged.found is found[0.5]
    same = Evaluation(top1=0.9, loss=0.3)
    assert max((0.25, 0.5, 1.0), key=lambda a: rank(same, a)) == 1.0
    assert choose_alpha(loaded.append, lambda: found[loaded[-1]], 0.25).alpha == loaded[-1] == 0.25


def test_refit_keeps_alpha(
    config: Make, recorder: Any, tmp_path: Path, tiny_model: Path, monkeypatch: Any
) -> None:
    finetune(config(refit=True, out=tmp_path / "plain"), recorder)
    whole = finetune(config(refit=True, average="source", out=tmp_path / "whole"), recorder)
    alpha = whole["average_alpha"]
    start = load_file(tiny_model / "model.safetensors")["norm.weight"]
    refit = weights(tmp_path / "plain")["norm.weight"]
    expected = torch.lerp(start, refit, alpha)
    torch.testing.assert_close(weights(tmp_path / "whole")["norm.weight"], expected)

    written = RunFolder.write_model

    def kill(self: RunFolder, model: Any, metadata: Any, *more: Any) -> None:
        written(self, model, metadata, *more)
        if "average_alpha" in metadata:
            raise Killed

    with monkeypatch.context() as context:
        context.setattr(RunFolder, "write_model", kill)
        with pytest.raises(Killed):
            finetune(config(refit=True, average="source", out=tmp_path / "cut"), recorder)
    again = finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    for key in ("average_alpha", "val_top1", "attention_drift", "test_top1", "n_train"):
        assert again[key] == whole[key]


def test_dry_run(config: Make, recorder: Any, tmp_path: Path) -> None:
    for average in ("trajectory", "source"):
        assert finetune(config(average=average), recorder, dry_run=True)["dry_run"]
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit(config: Make, recorder: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`ema` and `average=trajectory` exclude each other"):
        config(ema=0.9, average="trajectory")
    random = config(model="vit_tiny_patch16_224@none", image_size=32, average="source")
    with pytest.raises(UsageError, match=r"average: source: .*@none has random weights"):
        module.finetune(random, recorder)
    assert not (tmp_path / "run").exists()
