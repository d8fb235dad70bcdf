"""Fine-tuning on images with any number of labels, end to end on drawn images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.loader import Batch
from gtacli.errors import GtaError, UsageError
from gtacli.finetuning.head_start import start_head
from gtacli.finetuning.losses import ClassLoss
from gtacli.finetuning.phases import load_saved, make_evaluator
from gtacli.finetuning.prepare import _require_any_labels, prepare
from gtacli.finetuning.run import finetune
from gtacli.models.loading import load_model
from gtacli.models.metadata import model_metadata
from gtacli.regularizers.base import Regularizer, StepOutputs
from gtacli.regularizers.gta import GTA
from gtacli.runtime.run_folder import RunFolder

Make = Callable[..., FinetuneConfig]
CLASSES = ("red", "green", "blue")


@pytest.fixture
def several(config: Make, label_table: Path) -> Make:
    """Return the function `config`, for the table."""

    def make(**changes: Any) -> FinetuneConfig:
        return config(**{"data": str(label_table), "multi_label": True, **changes})

    return make


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_gta_and_binary_cross_entropy(several: Make, recorder: Any, tmp_path: Path) -> None:
    """The labels are learned; metrics, summary and header say what they are."""
    summary = finetune(several(epochs=12, lr=3e-3), recorder)
    assert summary["test_map"] > 0.9
    assert summary["test_f1_micro"] > 0.7
    assert summary["test_top1"] is summary["val_top1"] is summary["test_mean_class_top1"] is None
    assert [one["class"] for one in summary["label_results"]] == sorted(CLASSES)
    assert summary["test_map"] == pytest.approx(
        np.mean([one["ap"] for one in summary["label_results"]])
    )
    assert (summary["worst_classes"], summary["n_train"], summary["n_val"]) == ([], 14, 4)
    found = rows(tmp_path / "run")
    assert all(row["val_top1"] is None and "reg.gta" in row for row in found)
    assert summary["val_map"] == found[summary["best_epoch"]]["val_map"]
    assert 0 < summary["linear_probe_map"] <= 1
    with safe_open(tmp_path / "run/model.safetensors", "pt") as file:
        assert file.metadata()["multi_label"] == "true"
    split = json.loads((tmp_path / "run/split.json").read_text())
    assert split["classes"]["red"]["available"] == 9
    model = load_model(str(tmp_path / "run"))
    assert model.multi_label
    assert model_metadata(model, model.classes)["multi_label"] == "true"


def test_the_loss_of_a_step(several: Make) -> None:
    """Against torch's formula, with weights of the positive labels and smoothing."""
    job = prepare(several(balance="loss", label_smoothing=0.1, regularizer="none"))
    torch.nn.init.normal_(job.target.model.head.weight)  # type: ignore[union-attr, arg-type]
    store = job.stores.get(job.split.train, job.transform.load_size)
    labels = torch.tensor([[2, -1], [0, 1], [-1, -1]])
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    result = job.task.train()(Batch(images, labels, torch.arange(3), torch.zeros(3, 5)))
    truth = torch.tensor([[0.0, 0, 1], [1, 1, 0], [0, 0, 0]])
    counts = F.one_hot(store.labels.clamp_min(0), 3).mul(store.labels.ge(0)[..., None]).sum((0, 1))
    weights = (len(store) - counts) / counts
    expected = F.binary_cross_entropy_with_logits(
        result["output"], 0.9 * truth + 0.05, pos_weight=weights, reduction="sum"
    )
    assert result["loss"].item() == pytest.approx(expected.item() / 3, rel=1e-5)


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "transmix"])
def test_mixed_labels(mix: str, several: Make) -> None:
    job = prepare(several(mix=mix, regularizer="none"))
    seen: list[torch.Tensor] = []

    class Spy(ClassLoss):
        def each(self, logits: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            seen.append(goal)
            return super().each(logits, goal)

    job.task.loss = Spy(multi_label=True)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([[0, 1], [1, -1]])
    job.task.train()(Batch(images, labels, torch.arange(2), torch.zeros(2, 5)))
    (goal,) = seen
    assert goal[:, 1].tolist() == pytest.approx([1, 1])  # both have it
    assert goal[:, 2].tolist() == [0, 0]
    if mix != "transmix":  # whose images have fractions of their own
        assert float(goal[:, 0].sum()) == pytest.approx(1)


def test_resume_bit_for_bit(several: Make, interrupted: Any, recorder: Any, tmp_path: Path) -> None:
    whole = finetune(several(out=tmp_path / "whole", loss="focal"), recorder)
    again = interrupted(several(out=tmp_path / "cut", loss="focal"))
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for key in ("test_map", "val_map", "test_f1_macro", "best_epoch", "label_results"):
        assert again[key] == whole[key]


def test_a_refit_and_an_average(several: Make, recorder: Any) -> None:
    summary = finetune(several(refit=True, average="source", epochs=2), recorder)
    assert summary["n_train"] == 18
    assert 0 <= summary["val_map"] <= 1
    assert summary["average_alpha"] in (0.25, 0.5, 0.75, 1.0)


def test_a_chosen_strength(several: Make, recorder: Any) -> None:
    summary = finetune(several(lam="auto", epochs=5, warmup=0.0), recorder)
    assert summary["lam_search"]["chosen"] == summary["lam"]


def test_the_decision_compares_rankings(
    several: Make, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    summary = finetune(several(lam=None, head_init="auto", epochs=1), recorder)
    assert summary["cls_top1"] is None
    assert 0 < summary["cls_ranking"] <= 1
    assert "ranking of the classes of left-out images" in summary["why"]


def test_the_zero_start_predicts_frequencies(several: Make) -> None:
    job = prepare(several(head_init="random"))
    start_head(job)
    head: Any = job.target.model.head
    assert not head.weight.any()
    counts = [job.split.info["classes"][name]["train"] for name in job.dataset.classes]
    n = len(job.split.train)
    expected = [math.log((c + 0.5) / (n - c + 0.5)) for c in counts]
    assert head.bias.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_probe_starts_the_classifier(several: Make) -> None:
    job = prepare(several(head_init="probe", balance="loss"))
    start_head(job)
    head: Any = job.target.model.head
    assert head.weight.any()


def test_evaluation_does_not_depend_on_the_batches(several: Make, recorder: Any) -> None:
    config = several(epochs=1)
    summary = finetune(config, recorder)
    job = prepare(several(epochs=1, batch_size=2, out=None))
    load_saved(job, RunFolder(config.out))  # type: ignore[arg-type]
    found = make_evaluator(job, job.split.test, drift=False)()
    assert found.labels is not None
    assert found.labels.map == pytest.approx(summary["test_map"], abs=1e-6)


def test_a_trained_classifier_is_kept_for_its_kind_alone(
    several: Make, recorder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finetune(several(epochs=1), recorder)
    job = prepare(several(init=str(tmp_path / "run"), out=None))
    assert not job.new_head
    folder = tmp_path / "folders"
    for name in sorted(CLASSES):
        for i in range(3):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40)).save(folder / name / f"{i}.png")
    caplog.set_level("INFO")
    other = prepare(
        several(init=str(tmp_path / "run"), data=str(folder), multi_label=False, out=None)
    )
    assert other.new_head
    assert not other.target.multi_label
    assert "the weights are for any number of classes per image" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"balance": "sampling"}, {"head_init": "centroid"}],
)
def test_what_needs_one_class_is_refused(changes: dict[str, Any], several: Make) -> None:
    with pytest.raises(ValueError, match="exclude each other: it needs one class"):
        several(**changes)


def test_options_of_other_losses_and_data_are_refused(several: Make, tiny_data: Path) -> None:
    with pytest.raises(ValueError, match="`focal_gamma` is for `loss=focal`"):
        several(focal_gamma=1.0)
    with pytest.raises(UsageError, match="one class for each image"):
        prepare(several(data="demo"))


def test_focal_loss_of_one_class(config: Make, recorder: Any) -> None:
    summary = finetune(config(loss="focal", focal_gamma=1.0, balance="loss", epochs=2), recorder)
    assert summary["test_top1"] is not None
    assert "test_map" not in summary


def test_training_images_without_any_label_are_refused(several: Make, label_table: Path) -> None:
    lines = ["image,labels,split", "0.png,,train", "1.png,,train", "2.png,red,test"]
    label_table.write_text("\n".join(lines) + "\n")
    with pytest.raises(GtaError, match=r"no training image of .* has a label"):
        prepare(several())


def test_regularizers_that_learn_from_one_class_are_refused() -> None:
    class Starting(Regularizer[Any]):
        def penalty(self, step: StepOutputs) -> torch.Tensor:
            return torch.zeros(())

        def start(self, read: Any, classes: int) -> None: ...

    _require_any_labels({"gta": GTA})
    with pytest.raises(UsageError, match="starting learns from one class per image"):
        _require_any_labels({"starting": Starting})
