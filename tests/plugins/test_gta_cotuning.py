"""Tests of the plug-in gta-cotuning against a float64 reference, and of its way through a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gta_cotuning.options import CoTuningOptions
from gta_cotuning.regularizer import CoTuning, relate
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.finetuning.run import finetune
from gtacli.registry import REGULARIZERS
from gtacli.testing.inputs import drawn_images, drawn_labels, tiny_vit
from gtacli.testing.step import Step


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_relationship_is_the_mean_of_each_class() -> None:
    predictions = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    found = relate(predictions, torch.tensor([0, 0, 2]), 4)
    expected = [[0.75, 0.25], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_against_float64(temperature: float) -> None:
    target, source = tiny_vit(0), tiny_vit(1, num_classes=6)
    step = Step(CoTuning, {"temperature": temperature}, target.eval(), source)
    images, labels = drawn_images(3), drawn_labels(3).numpy()
    with torch.no_grad():
        penalty = step.penalty(images).item()
        target, source = target.double(), source.double()
        features = target.forward_head(target.forward_features(images.double()), pre_logits=True)
        logits = source.head(features).numpy()
        seen = softmax(source(drawn_images(3, seed=1).double()).numpy() / temperature)
    pairs = zip(labels, logits, strict=True)
    expected = [-(seen[label] * np.log(softmax(z))).sum() for label, z in pairs]
    assert penalty == pytest.approx(float(np.mean(expected)), rel=1e-5)


def test_other_classifiers() -> None:
    def build(source: torch.nn.Module) -> None:
        CoTuning(CoTuningOptions(), tiny_vit(0), source)

    with pytest.raises(UsageError, match="linear classifier, not Identity"):
        build(tiny_vit(1, num_classes=0))
    with pytest.raises(UsageError, match=r"the model has 24 \(cls\) and the source 12 \(cls\)"):
        build(tiny_vit(1, embed_dim=12))
    with pytest.raises(UsageError, match=r"the model has 24 \(cls\) and the source 24 \(mean\)"):
        build(tiny_vit(1, global_pool="avg"))


@pytest.fixture
def config(tiny_model: Path, tiny_data: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_model),
        "data": str(tiny_data),
        "device": "cpu",
        "workers": 0,
        "batch_size": 8,
        "regularizer": {"cotuning": {}},
        "linear_probe": False,
    }


def test_a_run_resumes_bit_for_bit(config: dict[str, Any], recorder: Any, tmp_path: Path) -> None:
    """The relationship is learned again from the source, which no step has changed."""

    class Killed(Exception):
        pass

    def kill(row: dict[str, Any]) -> None:
        raise Killed

    with REGULARIZERS.registered("cotuning", CoTuning):
        finetune(FinetuneConfig(**config, epochs=3, out=tmp_path / "whole"), recorder)
        assert all(row["reg.cotuning"] > 0 for row in recorder.rows)
        recorder.at_epoch = kill
        with pytest.raises(Killed):
            finetune(FinetuneConfig(**config, epochs=3, out=tmp_path / "cut"), recorder)
        recorder.at_epoch = lambda row: None
        finetune(FinetuneConfig(resume=tmp_path / "cut"), recorder)
    whole, cut = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_source_without_a_classifier(
    config: dict[str, Any], recorder: Any, tmp_path: Path
) -> None:
    folder = Path(config["model"])
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("head.")}
    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k != "num_classes"}
    save_file(kept, folder / "model.safetensors", metadata)
    with (
        REGULARIZERS.registered("cotuning", CoTuning),
        pytest.raises(UsageError, match="has no classifier, whose predictions cotuning needs"),
    ):
        finetune(FinetuneConfig(**config, epochs=1, out=tmp_path / "run"), recorder)
