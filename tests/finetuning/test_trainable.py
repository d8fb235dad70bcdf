"""Tests of `train`: which parameters learn, what they share with the source, what is saved."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gtacli import load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.config.parts import L2SPOptions
from gtacli.errors import GtaError, UsageError
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.finetuning.task import FinetuneTask
from gtacli.models.lora import AdaptedLinear, adapted_layers
from gtacli.regularizers.base import StepOutputs
from gtacli.regularizers.l2sp import L2SP

Make = Callable[..., FinetuneConfig]
TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}
ALL = ["gta", "bss:0.01", "l2-sp:0.1"]
HEAD = 24 * 3 + 3
LEARNING = {
    "head": HEAD,
    "norm+bias": HEAD + 3 * (4 * 24 + (72 + 24 + 96 + 24)) + 2 * 24 + 24,
    "lora": HEAD + 3 * 16 * 24,  # rank 1: a tiny ViT's width is 24
    "lora:4": HEAD + 4 * 3 * 16 * 24,
}


def storage(*parts: Iterable[Tensor]) -> int:
    """Return the bytes of the distinct memory of tensors."""
    sizes = {t.data_ptr(): t.untyped_storage().nbytes() for part in parts for t in part}
    return sum(sizes.values())


@pytest.mark.parametrize("train", LEARNING)
def test_only_the_chosen_parameters_learn(
    train: str, config: Make, recorder: Any, tmp_path: Path, tiny_model: Path, jobs: list[Any]
) -> None:
    run = config(train=train, epochs=2, regularizer=ALL, weight_decay=0.5, warmup=0.0)
    start = load_file(tiny_model / "model.safetensors")
    summary = finetune(run, recorder)
    (job,) = jobs
    assert summary["trainable_parameters"] == job.learning == LEARNING[train]
    in_optimizer = [p for g in job.optimizer.param_groups for p in g["params"]]
    assert sum(p.numel() for p in in_optimizer) == LEARNING[train]
    assert {*map(id, in_optimizer)} == {*map(id, job.optimizer.state)}
    saved = load_file(tmp_path / "run" / "model.safetensors")
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=3, **TINY)
    plain.load_state_dict(saved)  # strictly
    for name, value in saved.items():
        if name.startswith("head"):
            assert value.abs().sum() > 0
            continue
        small = value.ndim == 1
        matrix = name.startswith("blocks") and value.ndim == 2
        learns = {"norm+bias": small, "lora": matrix, "head": False}[train.partition(":")[0]]
        assert torch.equal(value, start[name]) != learns, name
    moved = [row["attention_drift"] > 1e-8 for row in recorder.rows]
    assert moved == [train != "head"] * 2


@pytest.mark.parametrize("train", ["head", "norm+bias", "lora:2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_source_needs_no_second_set_of_weights(
    train: str, precision: str, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(config(train=train, precision=precision))
    target, source = job.target.model, job.source
    assert source is not None
    target_only = [*target.parameters()]
    extra = storage(target_only, source.model.parameters()) - storage(target_only)
    own = [p for p in target_only if p.requires_grad and p.ndim == 1]
    # Copies of the norms and biases that learn, and of the classifier; nothing else.
    assert extra <= 4 * (sum(p.numel() for p in own) + HEAD)
    assert not any(isinstance(m, AdaptedLinear) for m in source.model.modules())
    assert not any(p.requires_grad for p in source.model.parameters())
    monkeypatch.setattr("gtacli.finetuning.source.pack", lambda model, *_: model)
    whole = prepare(config())
    assert whole.source is not None
    double = storage(whole.target.model.parameters(), whole.source.model.parameters())
    assert double == 2 * storage(whole.target.model.parameters())


@pytest.mark.parametrize("train", ["norm+bias", "lora:2"])
def test_shared_source_is_the_initial_model(
    train: str, config: Make, recorder: Any, tiny_model: Path, tmp_path: Path
) -> None:
    apart = f"vit_tiny_patch16_224@{tiny_model / 'model.safetensors'}"
    same = {"train": train, "lam": 1.0, "drop_path": 0.3}
    finetune(config(**same, out=tmp_path / "shared"), recorder)
    finetune(config(**same, out=tmp_path / "apart", source=apart), recorder)
    for one, other in zip(recorder.rows[:3], recorder.rows[3:], strict=True):
        assert one["reg.gta"] == pytest.approx(other["reg.gta"], rel=1e-3)
        assert one["attention_drift"] == pytest.approx(other["attention_drift"], rel=1e-3)
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


def test_adapters_are_saved_apart(
    config: Make, recorder: Any, tmp_path: Path, tiny_model: Path
) -> None:
    finetune(config(train="lora:3", keep_adapter=True, ema=0.5), recorder)
    run = tmp_path / "run"
    assert json.loads((run / "adapter_config.json").read_text())["r"] == 3
    merged = load_model(str(run))
    apart = load_model(f"{tiny_model}+{run / 'adapter.safetensors'}")
    assert apart.classes == merged.classes == ("blue", "green", "red")
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(apart.model(x), merged.model(x), rtol=1e-5, atol=1e-6)
    # The folder of a run with other options has no adapters of an earlier one.
    finetune(config(train="head", overwrite=True, epochs=1), recorder)
    assert not list(run.glob("adapter*"))


@pytest.mark.parametrize(
    "options",
    [
        {"train": "lora:2", "freeze_epochs": 1, "ema": 0.9, "drop_path": 0.2},
        {"train": "norm+bias", "layer_decay": 0.7, "optimizer": "sgd"},
        {"train": "head", "clip_grad": 1.0},
    ],
    ids=["lora", "norm+bias", "head"],
)
def test_resume(
    options: dict[str, Any], config: Make, recorder: Any, interrupted: Any, tmp_path: Path
) -> None:
    same = {**options, "regularizer": ALL}
    finetune(config(out=tmp_path / "whole", **same), recorder)
    interrupted(config(out=tmp_path / "cut", **same))
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_search_keeps_the_adapters_of_its_choice(
    config: Make, recorder: Any, tmp_path: Path, tiny_model: Path
) -> None:
    # A rate of nothing: the last epochs are no better, so the weights are a candidate's.
    finetune(config(train="lora", lam="auto", epochs=5, keep_adapter=True, lr=1e-3), recorder)
    merged = load_model(str(tmp_path / "run")).model
    apart = load_model(f"{tiny_model}+{tmp_path / 'run'}").model
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(apart(x), merged(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_compiled_and_checkpointed(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda m, **k: original(m, **{**k, "backend": "aot_eager"})
    )
    torch._dynamo.reset()
    same = {"train": "lora:2", "epochs": 1, "shots": 2, "batch_size": 2, "lr": 1e-4, "warmup": 0.0}
    finetune(config(**same), recorder)
    finetune(config(compile=True, overwrite=True, **same), recorder)
    finetune(config(grad_checkpointing=True, overwrite=True, **same), recorder)
    plain, compiled, checkpointed = recorder.rows
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    assert checkpointed["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-5)


def test_rates(config: Make) -> None:
    job = prepare(config(train="lora:2", layer_decay=0.5, lr=1e-3))
    names = {id(p): n for n, p in job.target.model.named_parameters()}
    scale = {names[id(p)]: g["lr_scale"] for g in job.optimizer.param_groups for p in g["params"]}
    decay = {i: scale[f"blocks.{i}.attn.qkv.lora_A"] for i in range(3)}
    assert decay == {i: pytest.approx(10 * 0.5 ** (3 - i)) for i in range(3)}
    assert scale["head.weight"] == 10


def test_nothing_to_guide(
    config: Make, recorder: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Any] = []
    monkeypatch.setattr(FinetuneTask, "run_source", lambda *a: passes.append(a))
    with caplog.at_level(logging.INFO):
        finetune(config(train="head", epochs=1, regularizer=ALL, drift=False), recorder)
    assert "the backbone does not change, so gta, bss is not used" in caplog.text
    assert "`train=head`: 75 parameters learn" in caplog.text
    (row,) = recorder.rows
    assert "reg.gta" not in row
    assert row["reg.l2-sp"] > 0  # of the head
    assert row["lr"] > 0
    assert prepare(config(train="head", drift=False)).source is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "lora", "keep_adapter": True, "lam": "auto", "epochs": 2}, "lam: .*too few"),
        ({"train": "head", "lam": "auto", "epochs": 5}, "lam: has nothing to act on"),
        ({"train": "lora:99"}, "train: rank 99 is larger than blocks.0.attn.qkv; at most 24"),
    ],
)
def test_refused_before_the_first_step(
    options: dict[str, Any], message: str, config: Make, recorder: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        finetune(config(**options), recorder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "lora:0"}, "must be one of all, head, norm\\+bias, lora, lora:RANK"),
        ({"train": "bias"}, "must be one of"),
        ({"keep_adapter": True}, "`keep_adapter` needs adapters"),
        ({"train": "head", "freeze_epochs": 1}, "`freeze_epochs` has no effect"),
        ({"train": "lora", "keep_adapter": True, "average": "source"}, "exclude each other"),
    ],
)
def test_invalid_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises((GtaError, ValueError), match=message):
        FinetuneConfig(**options)


def test_mean_with_the_source(
    config: Make, recorder: Any, tmp_path: Path, tiny_model: Path
) -> None:
    same = {"train": "lora:2", "hold_out": "none", "regularizer": "gta"}
    finetune(config(**same, out=tmp_path / "end"), recorder)
    finetune(config(**same, average="source"), recorder)
    end, mean = (load_file(tmp_path / n / "model.safetensors") for n in ("end", "run"))
    start = load_file(tiny_model / "model.safetensors")
    assert end.keys() == mean.keys()
    for name in (n for n in end if not n.startswith("head")):
        torch.testing.assert_close(mean[name], torch.lerp(start[name], end[name], 0.5))


@pytest.mark.parametrize("decoupled", [False, True])
def test_l2_sp_of_adapters_is_that_of_the_merged_weights(decoupled: bool, config: Make) -> None:
    job = prepare(config(train="lora:2"))
    model = job.target.model
    penalty = L2SP(L2SPOptions(lam=0.5, beta=0.0, decoupled=decoupled), model, None, ("head",))
    layers = [layer for _, layer in adapted_layers(model)]
    for layer in layers:
        nn.init.normal_(layer.lora_B)
    moves = [(layer.weight - layer.base).detach() for layer in layers]
    step = StepOutputs(None)  # type: ignore[arg-type]
    value = penalty.penalty(step)
    torch.testing.assert_close(value, sum(0.5 * m.square().sum() for m in moves))
    assert value.requires_grad != decoupled
    penalty.after_step([{"lr": 0.2, "params": [x.lora_B for x in layers]}])
    for layer, move in zip(layers, moves, strict=True):
        factor = 0.9 if decoupled else 1.0
        torch.testing.assert_close(layer.weight - layer.base, factor * move, rtol=1e-4, atol=1e-5)
