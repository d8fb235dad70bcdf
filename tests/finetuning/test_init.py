"""Tests of `init`: other weights to start from, with an unchanged source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gtacli import load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import GtaError
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune

Make = Callable[..., FinetuneConfig]


@pytest.fixture
def other(tiny_model: Path, tmp_path: Path) -> Path:
    """Save a weights file alone: the model's tensors, all one larger."""
    tensors = {k: v + 1 for k, v in load_file(tiny_model / "model.safetensors").items()}
    save_file(tensors, tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


def backbone(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if not k.startswith("head")}


@pytest.mark.usefixtures("not_packed")
def test_weights_file_alone(config: Make, tiny_model: Path, other: Path) -> None:
    job = prepare(config(init=str(other)))
    own, start = load_file(tiny_model / "model.safetensors"), load_file(other)
    assert job.source is not None
    assert not job.target.report.missing
    for name, value in backbone(job.target.model).items():
        assert torch.equal(value, start[name])
        assert torch.equal(job.source.model.state_dict()[name], own[name])
    assert job.target.model.head.weight.abs().sum() == 0  # type: ignore[union-attr, operator]
    reference = job.task.regularizers["gta"].source
    assert reference is job.source.model


def test_l2_sp_starts_from_init(config: Make, recorder: Any, other: Path) -> None:
    finetune(config(init=str(other), regularizer="l2-sp", epochs=1, lr=1e-9), recorder)
    assert recorder.rows[0]["reg.l2-sp"] < 1e-6


def test_run_folder(config: Make, recorder: Any, tmp_path: Path, tiny_data: Path) -> None:
    finetune(config(out=tmp_path / "first", image_size=64), recorder)
    first = load_file(tmp_path / "first" / "model.safetensors")
    job = prepare(config(init=str(tmp_path / "first")))
    assert job.target.image_size == (32, 32)  # the model's, not that of the weights
    assert "pos_embed" in job.target.report.resized
    # The same classes: the classifier goes on too.
    assert torch.equal(job.target.model.head.weight, first["head.weight"])  # type: ignore[union-attr, arg-type]
    summary = finetune(config(init=str(tmp_path / "first"), epochs=1, lr=1e-9), recorder)
    assert summary["attention_drift"] > 0  # from the model's own weights
    loaded = load_model(str(tmp_path / "run"))
    torch.testing.assert_close(
        loaded.model.state_dict()["norm.weight"], first["norm.weight"], rtol=1e-4, atol=1e-5
    )
    for split in ("train", "test"):
        (tiny_data / split / "red").rename(tiny_data / split / "crimson")
    other = prepare(config(init=str(tmp_path / "first")))
    assert other.target.model.head.weight.abs().sum() == 0  # type: ignore[union-attr, operator]


def test_preprocessing_is_that_of_init(config: Make, tiny_model: Path, tmp_path: Path) -> None:
    metadata = {
        "architecture": "vit_tiny_patch16_224",
        "mean": json.dumps([0.1, 0.2, 0.3]),
        "std": json.dumps([0.4, 0.5, 0.6]),
        "kwargs": json.dumps(dict(load_model(str(tiny_model)).kwargs or {})),
    }
    folder = tmp_path / "start"
    folder.mkdir()
    save_file(load_file(tiny_model / "model.safetensors"), folder / "model.safetensors", metadata)
    job = prepare(config(init=str(folder)))
    assert job.source is not None
    assert (job.target.mean, job.target.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert job.source.mean == load_model(str(tiny_model)).mean != job.target.mean


@pytest.mark.usefixtures("not_packed")
def test_model_without_weights_uses_init_as_source(config: Make, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = load_model("vit_tiny_patch16_224@none", 0, 32).model
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    file = str(tmp_path / "tiny.safetensors")
    job = prepare(config(model="vit_tiny_patch16_224@none", init=file, image_size=32))
    by_file = prepare(config(model=f"vit_tiny_patch16_224@{file}", image_size=32))
    assert job.source is not None
    for name, value in backbone(by_file.target.model).items():
        assert torch.equal(job.target.model.state_dict()[name], value)
        assert torch.equal(job.source.model.state_dict()[name], value)
    sizes = {"image_size": 32, "source_size": 64}
    larger = prepare(config(model="vit_tiny_patch16_224@none", init=file, **sizes))
    assert larger.source is not None
    value = larger.source.model.state_dict()["norm.weight"]
    assert torch.equal(value, model.state_dict()["norm.weight"])
    assert larger.source.image_size == (64, 64)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("vit_tiny_patch16_224@none", "init: .* has no weights to start from"),
        ("nowhere.pth", "init: unknown name"),
        ("folder/nowhere.pth", "init: no folder"),
        ("small.safetensors", r"init: .* fills only \d+ of \d+ tensors"),
        ("broken.pth", "init: weights file .*broken.pth is damaged or of an unknown format"),
    ],
)
def test_invalid_init(init: str, message: str, config: Make, recorder: Any, tmp_path: Path) -> None:
    model = load_model("vit_tiny_patch16_224@none", 0, 32).model  # another width and depth
    save_file(model.state_dict(), tmp_path / "small.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    there = tmp_path / init
    with pytest.raises(GtaError, match=message):
        finetune(config(init=str(there) if there.is_file() else init), recorder)
    assert not (tmp_path / "run").exists()


def test_resume(config: Make, recorder: Any, interrupted: Any, other: Path, tmp_path: Path) -> None:
    finetune(config(init=str(other), out=tmp_path / "whole"), recorder)
    interrupted(config(init=str(other), out=tmp_path / "cut"))
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)
