"""Tests of `pool`: runs whose classifier reads other features than the model's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import gtacli.finetuning.head_start as head_start
from gtacli import load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.finetuning.frozen_features import extract_features
from gtacli.finetuning.linear_head import fit_probe
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.models.pooling import name_pool

Make = Callable[..., FinetuneConfig]
POOLS = ("cls", "mean", "cls+mean")
WIDTH = {"cls": 24, "mean": 24, "cls+mean": 48}


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def test_default_is_the_models_own(config: Make) -> None:
    model = prepare(config()).target.model
    assert type(model) is timm.models.VisionTransformer
    assert name_pool(model) == "cls"


@pytest.mark.parametrize("pool", ["mean", "cls+mean"])
@pytest.mark.parametrize(
    "options",
    [
        {"mix": "transmix", "head_init": "probe", "ema": 0.9, "regularizer": ["gta", "bss:0.01"]},
        {"train": "lora:2", "head_init": "centroid", "average": "trajectory"},
        {"train": "norm+bias", "regularizer": ["l2-sp"], "refit": True},
        {"train": "head", "grad_checkpointing": True, "average": "source"},
        {"lam": None, "track_attention": True, "layer_decay": 0.7},
    ],
    ids=["transmix", "lora", "norms", "head", "decided"],
)
def test_run_is_saved_and_tested(
    pool: str,
    options: dict[str, Any],
    config: Make,
    recorder: Any,
    tmp_path: Path,
    tiny_data: Path,
) -> None:
    summary = finetune(config(pool=pool, epochs=2, lr=3e-3, **options), recorder)
    run = tmp_path / "run"
    assert weights_of(run)["head.weight"].shape == (3, WIDTH[pool])
    loaded = load_model(str(run))
    assert name_pool(loaded.model) == pool
    files = sorted((tiny_data / "test").glob("*/*.png"))
    images = torch.stack([loaded.preprocess(Image.open(file)) for file in files])
    with torch.no_grad():
        found = [loaded.classes[n] for n in loaded.model(images).argmax(1)]
    right = [name == file.parent.name for name, file in zip(found, files, strict=True)]
    assert sum(right) / len(right) == pytest.approx(summary["test_top1"])
    if pool == "mean":
        assert loaded.kwargs is not None
        plain = timm.create_model(loaded.architecture, num_classes=3, **loaded.kwargs)
        plain.load_state_dict(weights_of(run))
        assert torch.equal(plain.eval()(images), loaded.model(images))


@pytest.mark.parametrize("pool", POOLS)
def test_a_run_starts_as_the_linear_probe(
    pool: str, config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At this learning rate the weights stay where they start.
    monkeypatch.setitem(head_start.FIT, "probe", fit_probe)  # as the one that is reported
    summary = finetune(config(pool=pool, head_init="probe", epochs=1, lr=1e-12), recorder)
    assert summary["linear_probe_top1"] == summary["test_top1"]


def test_features_of_the_classifier(config: Make) -> None:
    each = {}
    for pool in POOLS:
        job = prepare(config(pool=pool))
        each[pool] = extract_features(job, job.split.train).values
    torch.testing.assert_close(each["cls+mean"], torch.cat([each["cls"], each["mean"]], 1))
    assert not torch.allclose(each["cls"], each["mean"], atol=0.1)


@pytest.mark.parametrize("pool", ["mean", "cls+mean"])
def test_resume(pool: str, config: Make, recorder: Any, interrupted: Any, tmp_path: Path) -> None:
    same = {"pool": pool, "head_init": "probe", "train": "lora:2"}
    finetune(config(out=tmp_path / "whole", **same), recorder)
    interrupted(config(out=tmp_path / "cut", **same))
    a, b = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("pool", ["mean", "cls+mean"])
def test_adapters_bring_their_features(
    pool: str, config: Make, recorder: Any, tmp_path: Path, tiny_model: Path
) -> None:
    finetune(config(pool=pool, train="lora:3", keep_adapter=True, lr=3e-3), recorder)
    run = tmp_path / "run"
    merged, apart = load_model(str(run)), load_model(f"{tiny_model}+{run / 'adapter.safetensors'}")
    assert name_pool(apart.model) == pool
    assert apart.classes == merged.classes
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(apart.model(x), merged.model(x), rtol=1e-5, atol=1e-6)
    # An adapter of a run that reads the CLS token again, on the weights of one that reads more.
    options = {"train": "lora:3", "keep_adapter": True, "out": tmp_path / "next"}
    finetune(config(model=str(run), pool="cls", **options), recorder)
    merged = load_model(str(tmp_path / "next"))
    apart = load_model(f"{run}+{tmp_path / 'next' / 'adapter.safetensors'}")
    assert name_pool(apart.model) == name_pool(merged.model) == "cls"
    torch.testing.assert_close(apart.model(x), merged.model(x), rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_from_another(
    config: Make, recorder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    finetune(config(pool="cls+mean", out=tmp_path / "first", lr=3e-3), recorder)
    first = weights_of(tmp_path / "first")["head.weight"]
    kept = prepare(config(init=str(tmp_path / "first"), pool="cls+mean"))
    assert not kept.new_head
    assert torch.equal(kept.target.model.head.weight, first)  # type: ignore[union-attr]
    kept = prepare(config(model=str(tmp_path / "first")))
    assert not kept.new_head
    assert kept.source is not None
    assert name_pool(kept.source.model) == "cls+mean"
    caplog.clear()
    new = prepare(config(init=str(tmp_path / "first")))
    assert new.new_head
    assert not new.target.model.head.weight.any()  # type: ignore[operator, union-attr]
    file = tmp_path / "first" / "model.safetensors"
    assert f"new classifier: that of {file} reads cls+mean, not cls (`pool`)" in caplog.messages
    assert not [line for line in caplog.messages if "is kept" in line]


def test_refused_before_the_run(config: Make, recorder: Any) -> None:
    model = "deit_tiny_distilled_patch16_224@none"
    with pytest.raises(UsageError, match=r"^pool: this model averages two classifiers"):
        finetune(config(model=model, image_size=32, pool="mean"), recorder)
