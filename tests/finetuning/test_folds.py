"""Tests of `folds`: cross-validation on the training images."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchmetrics.functional.classification import multilabel_average_precision

import gtacli.finetuning.folds as module
from gtacli.config.calibrate import CalibrateConfig
from gtacli.config.finetune import FinetuneConfig
from gtacli.data import load_dataset
from gtacli.data.labels import multi_hot
from gtacli.errors import GtaError, Interrupted, UsageError
from gtacli.finetuning.run import finetune
from gtacli.inference.logits import class_logits
from gtacli.measures.calibration import fit_label_temperature
from gtacli.measures.multilabel import best_threshold
from gtacli.measures.statistics import wilson_interval
from gtacli.models import load_model
from gtacli.runtime.devices import choose_compute
from gtacli.trained.calibrate import calibrate

Make = Callable[..., FinetuneConfig]


@pytest.fixture
def make(config: Make) -> Make:
    return lambda **changes: config(**{"hold_out": "auto", "folds": 3, "epochs": 1, **changes})


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the jobs of the folds that are trained."""
    seen: list[Any] = []
    original = module.run_phase

    def spy(job: Any, *args: Any) -> Any:
        seen.append(job)
        return original(job, *args)

    monkeypatch.setattr(module, "run_phase", spy)
    return seen


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "folds.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_image_is_classified_by_a_network_that_never_saw_it(
    make: Make, recorder: Any, phases: list[Any], tmp_path: Path
) -> None:
    summary = finetune(make(), recorder)
    run, rows = tmp_path / "run", rows_of(tmp_path / "run")
    train = json.loads((run / "split.json").read_text())["train"]
    assert [row["image"] for row in rows] == train
    assert len(train) == summary["n_train"] == 18  # the run itself learns from all of them
    for number, job in enumerate(phases, start=1):
        seen = {record.key for record in job.records}
        left_out = {row["image"] for row in rows if int(row["fold"]) == number}
        assert seen == {*train} - left_out
        assert len(left_out) == 6
        assert not job.split.val, "the fold must not choose its own network"
    assert len(phases) == 3
    assert not (run / "folds").exists()


def test_the_log_says_once_what_is_equal_in_all_folds(
    make: Make, recorder: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the decision, where a fold's is that of the run; here the last fold has another."""
    caplog.set_level("INFO", "gtacli")
    original, number = module.decide, iter(range(3))

    def decide(*args: Any) -> Any:
        other = {"kept_blocks": [], "why": "released here"} if next(number) == 2 else {}
        return {**original(*args), **other}

    monkeypatch.setattr(module, "decide", decide)
    finetune(make(lam=None), recorder)
    begin = next(i for i, text in enumerate(caplog.messages) if text.startswith("cross-validation"))
    before, after = caplog.messages[:begin], caplog.messages[begin + 1 :]
    assert any("missing, 0 unexpected" in text for text in before)
    assert any("the source's attention" in text for text in before)
    assert [text[:6] for text in after] == ["fold 1", "fold 2", "releas", "fold 3"]


def test_the_summary_agrees_with_the_table(make: Make, recorder: Any, tmp_path: Path) -> None:
    summary = finetune(make(), recorder)
    rows = rows_of(tmp_path / "run")
    hits = [row["label"] == row["class"] for row in rows]
    assert summary["folds_top1"] == sum(hits) / 18
    assert summary["folds_interval"] == list(wilson_interval(sum(hits), 18))
    assert summary["n_folds"] == 18
    by_fold = [
        [hit for hit, row in zip(hits, rows, strict=True) if row["fold"] == str(number)]
        for number in (1, 2, 3)
    ]
    assert summary["folds_top1_by_fold"] == [sum(one) / len(one) for one in by_fold]
    for row in rows:
        assert row["image"].split("/")[1] == row["label"]
    found = load_file(tmp_path / "run" / "folds.safetensors")
    best = found["logits"].softmax(1).amax(1)
    shown = torch.tensor([float(row["probability"]) for row in rows])
    torch.testing.assert_close(shown, best, rtol=1e-4, atol=1e-6)
    assert found["folds"].tolist() == [int(row["fold"]) - 1 for row in rows]


def test_any_number_of_labels(
    make: Make, recorder: Any, phases: list[Any], label_table: Path, tmp_path: Path
) -> None:
    """The labels are spread over the folds; table, logits and summary agree."""
    summary = finetune(make(data=str(label_table), multi_label=True, lam=None), recorder)
    run, rows = tmp_path / "run", rows_of(tmp_path / "run")
    assert [*rows[0]][:5] == ["image", "fold", "true_labels", "labels", "class"]
    assert [row["image"] for row in rows] == json.loads((run / "split.json").read_text())["train"]
    names = ("blue", "green", "red")
    truth = torch.tensor(
        [[name in row["true_labels"].split("|") for name in names] for row in rows]
    )
    for i, row in enumerate(rows):  # as the images were drawn
        number = int(Path(row["image"]).stem)
        assert truth[i].tolist() == [bool((number >> bit) & 1) for bit in (2, 1, 0)]
    for number, job in enumerate(phases):
        mine = torch.tensor([int(row["fold"]) == number + 1 for row in rows])
        left_out = {row["image"] for row, own in zip(rows, mine, strict=True) if own}
        assert {record.key for record in job.records} == {row["image"] for row in rows} - left_out
        assert (truth[mine].sum(0) - truth.sum(0) / 3).abs().max() <= 1
    found = load_file(run / "folds.safetensors")
    assert found["logits"].shape == (18, 3)
    chances = found["logits"].sigmoid()
    for row, own in zip(rows, chances, strict=True):
        said = {names[i] for i in range(3) if own[i] > 0.5}
        assert {*filter(None, row["labels"].split("|"))} == said
        assert float(row["probability"]) == pytest.approx(float(own.max()), rel=1e-4)
    expected = multilabel_average_precision(found["logits"].double(), truth.long(), 3)
    assert summary["folds_map"] == pytest.approx(float(expected), abs=1e-6)
    low, high = summary["folds_interval"]
    assert low <= summary["folds_map"] <= high
    assert len(summary["folds_map_by_fold"]) == 3
    f1 = 2 * ((chances > 0.5) & truth).sum() / ((chances > 0.5).sum() + truth.sum())
    assert summary["folds_f1_micro"] == pytest.approx(float(f1), abs=1e-6)
    assert "folds_top1" not in summary


def test_calibration_takes_the_labels_of_the_folds(
    make: Make, recorder: Any, label_table: Path, tmp_path: Path
) -> None:
    finetune(make(data=str(label_table), multi_label=True), recorder)
    run = tmp_path / "run"
    found = calibrate(CalibrateConfig(workers=0), run, choose_compute("cpu", "auto"))
    assert (found["n_val"], found["n_test"]) == (18, 12)
    tensors = load_file(run / "folds.safetensors")
    truth = multi_hot(tensors["labels"], 3)
    temperature = fit_label_temperature(tensors["logits"], truth)
    assert found["temperature"] == pytest.approx(temperature)
    chances = (tensors["logits"].double() / temperature).sigmoid()
    assert found["label_threshold"] == best_threshold(chances, truth)
    tensors["labels"] = tensors["labels"][:, 0].contiguous()  # as of one class
    save_file(tensors, run / "folds.safetensors")
    with pytest.raises(GtaError, match="does not hold logits of 3 classes"):
        calibrate(CalibrateConfig(workers=0), run, choose_compute("cpu", "auto"))


def test_a_fold_is_a_run_on_the_other_images(
    make: Make, config: Make, recorder: Any, tiny_data: Path, tmp_path: Path
) -> None:
    """Its logits are those of an ordinary run, to the last epoch, that tests on the fold."""
    finetune(make(out=tmp_path / "whole"), recorder)
    found = load_file(tmp_path / "whole" / "folds.safetensors")
    rows = rows_of(tmp_path / "whole")
    lines = ["path,label,split"]
    lines += [
        f"{tiny_data / row['image']},{row['label']},{'test' if row['fold'] == '1' else 'train'}"
        for row in rows
    ]
    (tmp_path / "fold.csv").write_text("\n".join(lines), encoding="utf-8")
    table = config(data=str(tmp_path / "fold.csv"), hold_out="none", epochs=1, drift=False)
    finetune(table, recorder)
    first = found["folds"] == 0
    compute = choose_compute("cpu", "auto")
    model = load_model(str(tmp_path / "run"))
    logits = class_logits(model, load_dataset(table.data)["test"], compute, workers=0)
    assert torch.equal(logits.labels, found["labels"][first])
    torch.testing.assert_close(logits.values, found["logits"][first], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_an_interrupted_run_ends_with_the_same_folds(
    make: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    finetune(make(out=tmp_path / "whole", epochs=2), recorder)
    original, calls = module.run_phase, []

    def stop_in_the_second(job: Any, *args: Any) -> Any:
        calls.append(job.records)
        if len(calls) == 2:
            watcher = args[1]
            watcher.step = lambda epoch, now, *rest: (
                os.kill(os.getpid(), signal.SIGINT) if (epoch, now) == (1, batch) else None
            )
        return original(job, *args)

    monkeypatch.setattr("gtacli.training.loop.CHECK_EVERY", 1)
    monkeypatch.setattr(module, "run_phase", stop_in_the_second)
    with pytest.raises(Interrupted, match=r"in fold 2 of 3; continue with `resume` .*run$"):
        finetune(make(epochs=2), recorder)
    finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)
    assert calls[1] == calls[2]  # the second goes on, the first is not trained again
    assert len(calls) == 4
    whole, resumed = (load_file(tmp_path / n / "folds.safetensors") for n in ("whole", "run"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_damaged_fold_is_named(make: Make, recorder: Any, tmp_path: Path) -> None:
    finetune(make(), recorder)
    folder = tmp_path / "run" / "folds"
    folder.mkdir()
    save_file({"values": torch.zeros(6, 2), "rows": torch.arange(6)}, folder / "1.safetensors")
    with pytest.raises(GtaError, match=r"1\.safetensors is damaged: it does not hold the logits"):
        finetune(FinetuneConfig(resume=tmp_path / "run"), recorder)


def test_the_program_decides_for_each_fold(
    make: Make, recorder: Any, phases: list[Any], tmp_path: Path
) -> None:
    """By the images of its training alone: a decision by all of them has seen the fold."""
    finetune(make(lam=None, epochs=1), recorder)
    for job in phases:
        assert job.config.lam is not None
        assert not job.config.leaves_attention_open


@pytest.mark.parametrize(
    "changes",
    [{"average": "source"}, {"train": "lora"}, {"ema": 0.9}],
    ids=lambda changes: next(iter(changes)),
)
def test_it_works_with(make: Make, recorder: Any, changes: dict[str, Any]) -> None:
    summary = finetune(make(folds=2, **changes), recorder)
    assert 0 <= summary["folds_top1"] <= 1


def test_a_dry_run_tries_one_fold(make: Make, recorder: Any, phases: list[Any]) -> None:
    finetune(make(), recorder, dry_run=True)
    assert len(phases) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hold_out": 20.0}, "`folds` and `hold_out=20.0` exclude each other"),
        ({"lam": "auto"}, "`folds` and `lam=auto` exclude each other"),
        ({"patience": 2}, "`folds` and `patience` exclude each other"),
        ({"refit": True}, "`folds` and `refit` exclude each other"),
        ({"folds": 1}, "greater than or equal to 2|at least 2"),
    ],
)
def test_what_excludes_folds(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        make(**changes)


def test_more_folds_than_images(make: Make, recorder: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folds: 19 are more than the 18 images that can be left"):
        finetune(make(folds=19), recorder)
    assert not (tmp_path / "run" / "run.json").exists()
