"""Tests of `freeze_epochs`: first only the head learns, then the whole network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.loader import Batch
from gtacli.errors import UsageError
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.finetuning.task import FinetuneTask
from gtacli.models.tap import TappedViT
from gtacli.regularizers.gta import GTA
from gtacli.training.optimization import make_optimizer, make_schedule

Make = Callable[..., FinetuneConfig]
EVERY = ["gta", "bss:0.01", "l2-sp"]


def snapshot(job: Any) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in job.target.model.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("regularizer", [EVERY, {"l2-sp": {"decoupled": True}}, "none"])
def test_backbone_is_frozen_then_trained(
    optimizer: str, regularizer: Any, config: Make, recorder: Any, jobs: list[Any]
) -> None:
    seen: list[dict[str, Tensor]] = []
    recorder.at_epoch = lambda row: seen.append(snapshot(jobs[0]))
    options = {"optimizer": optimizer, "weight_decay": 0.5, "lr": 1e-2, "warmup": 0.0}
    run = config(freeze_epochs=2, epochs=4, regularizer=regularizer, **options)
    start = snapshot(prepare(run))
    finetune(run, recorder)
    for name, value in start.items():
        still = [torch.equal(weights[name], value) for weights in seen]
        if name.startswith("head"):
            assert not any(still)
        else:
            assert still[:2] == [True, True], name
            assert not still[3], name
    assert [row["attention_drift"] < 1e-8 for row in recorder.rows] == [True, True, False, False]


def test_frozen_training_is_logistic_regression(
    config: Make, recorder: Any, jobs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with SGD on fixed features."""
    options = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.01, "shots": 2, "warmup": 0.0}
    run = config(freeze_epochs=3, epochs=3, batch_size=6, **options)
    seen: list[tuple[Tensor, Tensor]] = []
    forward = FinetuneTask.forward

    def spy(self: FinetuneTask, batch: Batch) -> dict[str, Tensor]:
        seen.append((batch.images, batch.labels))
        return forward(self, batch)

    monkeypatch.setattr(FinetuneTask, "forward", spy)
    finetune(run, recorder)
    job = jobs[0]
    kept = load_file(tmp_path / "run" / "model.safetensors")
    weight, bias = torch.zeros_like(kept["head.weight"]), torch.zeros_like(kept["head.bias"])
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    rates = [0.5 * (1 + torch.cos(torch.tensor(torch.pi * t / 3))) for t in range(3)]
    model = job.target.model.eval()
    for rate, (images, labels) in zip(rates, seen, strict=True):
        with torch.no_grad():
            tokens = model.forward_features(job.target.view(torch.device("cpu"))(images))
            x = model.forward_head(tokens, pre_logits=True)
        error = (x @ weight.T + bias).softmax(-1) - nn.functional.one_hot(labels, 3)
        grads = [error.T @ x / 6 + 0.01 * weight, error.mean(0)]
        for i, grad in enumerate(grads):
            momentum[i] = 0.9 * momentum[i] + grad
            nesterov = grad + 0.9 * momentum[i]
            (weight, bias)[i].sub_(rate * 0.1 * 10 * nesterov)  # the head's rate is ten times --lr
    torch.testing.assert_close(kept["head.weight"], weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(kept["head.bias"], bias, rtol=1e-3, atol=1e-5)


def test_frozen_epochs_skip_penalties_and_source(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[bool, int, bool]] = []
    penalties: list[int] = []
    forward, penalty = TappedViT.forward, GTA.penalty

    def spy(self: TappedViT, images: Tensor) -> Any:
        outputs = forward(self, images)
        if torch.is_grad_enabled():
            backbone = self.model.norm.weight.requires_grad
            passes.append((backbone, len(self.request.layers), outputs.logits.requires_grad))
        else:
            passes.append((False, -1, False))
        return outputs

    monkeypatch.setattr(TappedViT, "forward", spy)
    monkeypatch.setattr(GTA, "penalty", lambda *a: (penalties.append(1), penalty(*a))[1])
    finetune(config(freeze_epochs=1, epochs=2, drift=False, regularizer=EVERY), recorder)
    # Four steps without taps and without the source, a validation; then four with both.
    assert passes[:5] == [(False, 0, True)] * 4 + [(False, -1, False)]
    assert passes[5:13] == [(False, -1, False), (True, 3, True)] * 4
    assert len(penalties) == 4
    frozen, free = recorder.rows
    assert (frozen["reg.gta"], frozen["reg.bss"]) == (None, None)
    assert frozen["reg.l2-sp"] > 0  # of the head
    assert free["reg.gta"] > 0
    assert frozen["lr"] == 0


@pytest.mark.parametrize("at", [(1, 2), (3, 2)])
@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd", "ema": 0.9, "drop_path": 0.2}])
def test_resume_frozen_and_unfrozen(
    at: tuple[int, int],
    options: dict[str, Any],
    config: Make,
    recorder: Any,
    interrupted: Any,
    tmp_path: Path,
) -> None:
    same = {"freeze_epochs": 2, "epochs": 5, "regularizer": EVERY, **options}
    finetune(config(out=tmp_path / "whole", **same), recorder)
    interrupted(config(out=tmp_path / "cut", **same), *at)
    folders = [tmp_path / "whole", tmp_path / "cut"]
    a, b = (torch.load(f / "state.pt", weights_only=True)["model"] for f in folders)
    assert all(torch.equal(a[k], b[k]) for k in a)
    a, b = (load_file(f / "model.safetensors") for f in folders)
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_compiled(config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda m, **k: original(m, **{**k, "backend": "aot_eager"})
    )
    torch._dynamo.reset()
    same = {"freeze_epochs": 1, "epochs": 2, "shots": 2, "batch_size": 2}
    finetune(config(**same), recorder)
    finetune(config(compile=True, overwrite=True, **same), recorder)
    for plain, compiled in zip(recorder.rows[:2], recorder.rows[2:], strict=True):
        assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)


@pytest.mark.parametrize(("warmup", "frozen"), [(0, 6), (4, 6), (4, 0), (8, 3)])
def test_backbone_joins_the_schedule(warmup: int, frozen: int) -> None:
    from timm import create_model

    model = create_model("vit_tiny_patch16_224", embed_dim=24, depth=2, num_heads=3, num_classes=2)
    rates: dict[int, list[dict[bool, float]]] = {}
    for late in (0, frozen):
        optimizer = make_optimizer(model, ("head",), "adamw", 1e-3, 10.0, 0.05, None)
        schedule = make_schedule(optimizer, 20, warmup, late)
        rates[late] = []
        for step in range(20):
            schedule.step_update(step)
            rates[late].append({g["head"]: g["lr"] for g in optimizer.param_groups})
    for step, (plain, late) in enumerate(zip(rates[0], rates[frozen], strict=True)):
        assert late[True] == plain[True]
        since = step - frozen
        share = 1.0 if frozen == 0 or since >= warmup else max(since + 1, 0) / (warmup + 1)
        assert late[False] == pytest.approx(plain[False] * share)


@pytest.mark.parametrize("warmup", [1, 4])
@pytest.mark.parametrize("frozen", [0, 6])
def test_no_step_of_the_warm_up_has_a_rate_of_zero(warmup: int, frozen: int) -> None:
    model = torch.nn.Linear(2, 2)
    groups = [{"params": [p], "lr_scale": 1.0, "head": p.ndim == 1} for p in model.parameters()]
    optimizer = torch.optim.SGD(groups, lr=0.6)
    schedule = make_schedule(optimizer, 20, warmup, frozen)
    rates = []
    for step in range(frozen + warmup + 1):
        schedule.step_update(step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    whole = [0.6 * (step + 1) / (warmup + 1) for step in range(warmup + 1)]
    assert [head for _, head in rates[: warmup + 1]] == pytest.approx(whole)
    assert [backbone for backbone, _ in rates[:frozen]] == [0.0] * frozen
    assert all(backbone > 0 for backbone, _ in rates[frozen:])


def test_dry_run_takes_both_kinds_of_step(config: Make, recorder: Any) -> None:
    finetune(config(freeze_epochs=2, epochs=3), recorder, dry_run=True)
    assert [row["reg.gta"] is None for row in recorder.rows] == [True, False]


def test_patience_waits_for_the_backbone(config: Make, recorder: Any) -> None:
    """A converged head does not stop the run before the backbone has been trained."""
    summary = finetune(config(freeze_epochs=4, patience=1, epochs=6, lr=1e-12), recorder)
    assert summary["epochs_run"] == 6  # epochs 4 and 5 are the first that count


def test_auto_strength_needs_unfrozen_epochs(config: Make, recorder: Any) -> None:
    with pytest.raises(UsageError, match=r"lam: auto: the first decision is after 3 of 8 epochs"):
        finetune(config(freeze_epochs=4, epochs=8, lam="auto"), recorder)
    with pytest.raises(UsageError, match=r"lam: auto: the first decision is after 3 of 8 epochs"):
        finetune(config(freeze_epochs=4, epochs=8, lam="auto"), recorder, dry_run=True)
