"""Tests of `test_size`: the model is tested and used at another size than that of training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import GtaError
from gtacli.finetuning.run import finetune
from gtacli.models import load_model

Make = Callable[..., FinetuneConfig]
HOLD_ALL = {"hold_out": None, "folds": 2}


def accuracy(model: Any, images: Path) -> float:
    """Classify the test images as a user of the saved model does."""
    hits = []
    for path in sorted(images.glob("*/*.png")):
        view = model.preprocess(Image.open(path))[None]
        with torch.inference_mode():
            hits.append(model.classes[int(model.model(view).argmax())] == path.parent.name)
    return sum(hits) / len(hits)


@pytest.mark.parametrize("average", ["none", "source"])
def test_the_saved_model_has_the_size_of_its_test(
    config: Make, recorder: Any, tiny_data: Path, tmp_path: Path, average: str
) -> None:
    at_own = finetune(config(average=average, out=tmp_path / "own"), recorder)
    summary = finetune(config(average=average, test_size=64), recorder)
    weights, own = (load_file(tmp_path / n / "model.safetensors") for n in ("run", "own"))
    assert all(torch.equal(weights[name], own[name]) for name in own)  # training is the same
    assert at_own["val_top1"] == summary["val_top1"]
    model = load_model(str(tmp_path / "run"))
    assert model.image_size == (64, 64)
    assert summary["test_top1"] == pytest.approx(accuracy(model, tiny_data / "test"))
    assert load_model(str(tmp_path / "run"), image_size=32).image_size == (32, 32)


def test_the_file_loads_in_timm_at_both_sizes(config: Make, recorder: Any, tmp_path: Path) -> None:
    finetune(config(epochs=1, test_size=(64, 48)), recorder)
    file = tmp_path / "run/model.safetensors"
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    assert json.loads(header["image_size"]) == [32, 32]
    assert json.loads(header["test_size"]) == [64, 48]
    kwargs = {**json.loads(header["kwargs"]), "img_size": 32, "num_classes": 3}
    theirs = timm.create_model(header["architecture"], checkpoint_path=file, **kwargs).eval()
    theirs.set_input_size(json.loads(header["test_size"]))
    view = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(view), load_model(str(tmp_path / "run")).model(view))


def test_a_run_at_another_size_is_a_source_and_is_resumed(
    config: Make, recorder: Any, interrupted: Callable[..., Any], tmp_path: Path
) -> None:
    whole = finetune(config(test_size=64, out=tmp_path / "whole"), recorder)
    assert interrupted(config(test_size=64))["test_top1"] == whole["test_top1"]
    finetune(config(model=str(tmp_path / "run"), epochs=1, out=tmp_path / "next"), recorder)
    assert load_model(str(tmp_path / "next")).image_size == (64, 64)


def test_folds_are_classified_at_the_size_of_the_test(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    import gtacli.finetuning.folds as folds

    original = folds._classifier

    def spy(job: Any, target: Any) -> Any:
        seen.add(target.image_size)
        return original(job, target)

    monkeypatch.setattr(folds, "_classifier", spy)
    finetune(config(epochs=1, test_size=64, **HOLD_ALL), recorder)
    assert seen == {(64, 64)}


def test_a_dry_run_and_attention_on_the_object(config: Make, recorder: Any) -> None:
    assert finetune(config(test_size=64), recorder, dry_run=True)["dry_run"]
    summary = finetune(config(test_size=64, epochs=1, track_attention=True), recorder)
    assert summary["test_top1"] is not None


def test_a_size_that_the_model_cannot_have_is_refused_before_training(
    config: Make, recorder: Any, tmp_path: Path
) -> None:
    with pytest.raises(GtaError, match=r"test_size: 36x36 is not a multiple of the patch size"):
        finetune(config(test_size=36), recorder)
    assert not recorder.rows
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_called_as_a_model_is(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = finetune(config(out=Path("other"), test_size=(64, 64)), recorder)
    same = finetune(config(out=Path("demo"), test_size=(64, 64)), recorder)
    assert same["test_top1"] == other["test_top1"]
