"""Tests of the classifier that a run starts with: the loaded one where it fits, else a new one."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.prepare import prepare

Make = Callable[..., FinetuneConfig]
Save = Callable[..., str]
TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}


@pytest.fixture
def save(tiny_model: Path, tmp_path: Path) -> Save:
    """Return a function that saves weights with a classifier of some classes, as a file."""

    def write(outputs: int, classes: list[str] | None = None, name: str = "start") -> str:
        tensors = load_file(tiny_model / "model.safetensors")
        tensors["head.weight"] = torch.arange(24.0 * outputs).reshape(outputs, 24)
        tensors["head.bias"] = torch.arange(1.0, outputs + 1)
        metadata = {"architecture": "vit_tiny_patch16_224", "kwargs": json.dumps(TINY)}
        if classes is not None:
            metadata["classes"] = json.dumps(classes)
        file = tmp_path / f"{name}.safetensors"
        save_file(tensors, file, metadata)
        return str(file)

    return write


def head_of(job: Any) -> tuple[Tensor, Tensor]:
    head = job.target.model.head
    return head.weight.detach(), head.bias.detach()


def test_classes_in_another_order(
    config: Make, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = save(3, ["red", "blue", "green"])  # the dataset's are blue, green, red
    job = prepare(config(init=file))
    weight, bias = head_of(job)
    own = load_file(file)
    assert torch.equal(bias, torch.tensor([2.0, 3.0, 1.0]))
    assert torch.equal(weight, own["head.weight"][[1, 2, 0]])
    assert "head.weight" in job.target.report.loaded
    assert "the classifier is kept: its 3 classes are the dataset's, in another order" in (
        caplog.messages
    )


def test_file_without_names(config: Make, save: Save, caplog: pytest.LogCaptureFixture) -> None:
    file = save(3)
    job = prepare(config(init=file))
    assert torch.equal(head_of(job)[1], torch.tensor([1.0, 2.0, 3.0]))
    lines = [line for line in caplog.messages if "order is assumed" in line]
    assert lines == [
        "the classifier is kept: the weights do not name its 3 classes, so their order is assumed "
        "to be the dataset's (blue, green, red)"
    ]


def test_order_of_timm_is_named_where_it_differs(
    config: Make, save: Save, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    for old, new in (("blue", "c10"), ("green", "c2"), ("red", "c9")):
        shutil.copytree(tiny_data / "train" / old, data / new)
    prepare(config(init=save(3), data=str(data)))
    lines = [line for line in caplog.messages if "order is assumed" in line]
    assert "(c10, c2, c9); if it was trained by timm's own scripts" in lines[0]
    assert "they number 'c2' as class 0, where this dataset has 'c10'" in lines[0]


@pytest.mark.parametrize(
    ("outputs", "classes", "message"),
    [
        (3, ["red", "blue", "gold"], "new classifier: the weights have other classes (gold)"),
        (7, None, "new classifier: head.weight is (7, 24) in the file, (3, 24) in the model"),
        (4, ["red", "blue", "green", "x"], "new classifier: head.weight is (4, 24) in the file"),
    ],
)
def test_classifier_that_does_not_fit(
    outputs: int,
    classes: list[str] | None,
    message: str,
    config: Make,
    save: Save,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    job = prepare(config(init=save(outputs, classes)))
    weight, bias = head_of(job)
    assert not weight.any()
    assert not bias.any()
    report = job.target.report
    assert set(report.new_head) == {"head.weight", "head.bias"}
    assert not any(name.startswith("head") for name in report.loaded)
    assert "new classifier" in str(report)
    assert message in caplog.text


def test_model_keeps_its_classifier_by_name_only(
    config: Make, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    named = save(3, ["green", "red", "blue"], "named")
    job = prepare(config(model=f"vit_tiny_patch16_224@{named}", image_size=32))
    assert torch.equal(head_of(job)[1], torch.tensor([3.0, 1.0, 2.0]))
    unnamed = save(3, None, "unnamed")
    job = prepare(config(model=f"vit_tiny_patch16_224@{unnamed}", image_size=32))
    assert not head_of(job)[1].any()
    assert "new classifier: the weights do not name its classes" in caplog.text
