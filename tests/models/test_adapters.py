"""Tests of files of adapters: parity with peft in both directions, and files that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gtacli import load_model
from gtacli.errors import GtaError
from gtacli.models.adapters import adapter_config, adapter_tensors
from gtacli.models.lora import adapted_layers, add_adapters

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}
CLASSES = 4


@pytest.fixture
def adapted(tiny_model: Path) -> nn.Module:
    """A network with adapters that are not zero and a classifier of its own."""
    model = load_model(str(tiny_model), CLASSES).model
    torch.manual_seed(4)
    add_adapters(model, 2, 0)
    for _, layer in adapted_layers(model):
        nn.init.normal_(layer.lora_B, std=0.1)
    return model


@pytest.fixture
def folder(adapted: nn.Module, tmp_path: Path) -> Path:
    """The folder of its adapter."""
    path = tmp_path / "adapter"
    path.mkdir()
    tensors = {k: v.detach().contiguous() for k, v in adapter_tensors(adapted).items()}
    save_file(
        tensors, path / "adapter.safetensors", {"format": "pt", "classes": '["a","b","c","d"]'}
    )
    (path / "adapter_config.json").write_text(json.dumps(adapter_config(adapted, "base")))
    return path


def base(tiny_model: Path, classes: int = CLASSES) -> Any:
    """Return timm's network with the weights that the adapters were made for."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **TINY)
    tensors = load_file(tiny_model / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.startswith("head")}
    model.load_state_dict(kept, strict=False)
    return model.eval()


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(8))


def test_peft_loads_ours(adapted: nn.Module, folder: Path, tiny_model: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig.from_pretrained(folder)
    model = peft.get_peft_model(base(tiny_model), config)
    found = peft.set_peft_model_state_dict(model, load_file(folder / "adapter.safetensors"))
    assert not found.unexpected_keys
    assert not [k for k in found.missing_keys if "lora" in k or "modules_to_save" in k]
    torch.testing.assert_close(model(images()), adapted(images()), rtol=1e-5, atol=1e-5)
    # Under peft's own name the folder loads as it is.
    shutil.copy(folder / "adapter.safetensors", folder / "adapter_model.safetensors")
    model = peft.PeftModel.from_pretrained(base(tiny_model), folder)
    torch.testing.assert_close(model(images()), adapted(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"r": 2, "lora_alpha": 5},
        {"r": 4, "lora_alpha": 8, "use_rslora": True, "rank_pattern": {"blocks.1.mlp.fc1": 3}},
        {"target_modules": ["attn.qkv"], "modules_to_save": None},
    ],
)
def test_ours_loads_peft(options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    targets = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    options = {"target_modules": targets, "modules_to_save": ["head"], **options}
    torch.manual_seed(6)
    model = peft.get_peft_model(base(tiny_model), peft.LoraConfig(**options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_model(f"{tiny_model}+{tmp_path / 'theirs'}").model
    if options["modules_to_save"] is None:  # the classifier stays the model's
        ours.reset_classifier(0)  # type: ignore[operator]
        model.base_model.model.reset_classifier(0)
    torch.testing.assert_close(ours(images()), model.eval()(images()), rtol=1e-5, atol=1e-5)


def test_spec_with_an_adapter(adapted: nn.Module, folder: Path, tiny_model: Path) -> None:
    file = folder / "adapter.safetensors"
    weights = tiny_model / "model.safetensors"
    for spec in (f"{tiny_model}+{folder}", f"{tiny_model}+{file}"):
        loaded = load_model(spec)
        assert loaded.classes == ("a", "b", "c", "d")
        assert not loaded.report.missing
        torch.testing.assert_close(loaded.model(images()), adapted(images()), rtol=1e-5, atol=1e-5)
    assert load_model(f"vit_tiny_patch16_224@{weights}+{file}").classes == loaded.classes
    # A path with a plus is a path.
    shutil.copytree(tiny_model, folder / "a+b")
    assert load_model(str(folder / "a+b")).report.loaded
    assert load_model(f"vit_tiny_patch16_224@{folder}/a+b/model.safetensors").report.loaded


Change = Callable[[dict[str, Tensor], dict[str, Any]], Any]
QKV = "base_model.model.blocks.0.attn.qkv.lora_A.weight"
INVALID: dict[str, tuple[Change, str]] = {
    "shape": (lambda t, c: t.update({QKV: torch.zeros(2, 23)}), r"\(72, 2\) times \(2, 23\)"),
    "rank": (lambda t, c: t.update({QKV: torch.zeros(3, 24)}), r"times \(3, 24\)"),
    "rank of the config": (lambda t, c: c.update(r=7), "has rank 2, its config 7"),
    "half an adapter": (lambda t, c: t.pop(QKV), "has only lora_B of blocks.0.attn.qkv"),
    "unknown layer": (
        lambda t, c: t.update({QKV.replace(".0.", ".9."): t.pop(QKV)}),
        "blocks.9.attn.qkv, which the model does not have|has only lora_B",
    ),
    "no matrix": (
        lambda t, c: t.update(
            {f"base_model.model.patch_embed.proj.lora_{x}.weight": torch.zeros(2, 2) for x in "AB"}
        ),
        "patch_embed.proj is not one of a linear layer",
    ),
    "unknown tensor": (
        lambda t, c: t.update({"base_model.model.foo": torch.zeros(2)}),
        "foo is .* but the model does not have it",
    ),
    "other weights": (lambda t, c: t.update({"norm.weight": torch.zeros(24)}), "not a file of ad"),
    "whole numbers": (lambda t, c: t.update({QKV: torch.zeros(2, 24).int()}), "not a file of ad"),
    "head": (
        lambda t, c: t.update({"base_model.model.head.weight": torch.zeros(4, 25)}),
        "head.weight is",
    ),
    "no adapter": (
        lambda t, c: [t.pop(k) for k in [*t] if "lora" in k],
        "holds no low-rank adapters",
    ),
    "another method": (lambda t, c: c.update(peft_type="IA3"), "peft_type 'IA3' cannot be read"),
    "dora": (lambda t, c: c.update(use_dora=True), "use_dora cannot be read"),
    "changed base": (lambda t, c: c.update(init_lora_weights="pissa"), "init_lora_weights 'pissa'"),
    "alpha": (lambda t, c: c.update(lora_alpha="much"), "lora_alpha must be a number .* 'much'"),
    "huge alpha": (lambda t, c: c.update(lora_alpha=1e308), "lora_alpha must be .* got '1e\\+308'"),
    "negative rank": (lambda t, c: c.update(r=-1), "r must be a whole number above 0, got -1"),
    "no config of an adapter": (lambda t, c: c.clear(), "is not the config of a peft adapter"),
}


@pytest.mark.parametrize("name", INVALID)
def test_files_that_do_not_fit(name: str, folder: Path, tiny_model: Path) -> None:
    change, message = INVALID[name]
    tensors = load_file(folder / "adapter.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    change(tensors, config)
    save_file(tensors, folder / "adapter.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(GtaError, match=message) as caught:
        load_model(f"{tiny_model}+{folder}")
    assert (caught.value.option, caught.value.exit_code) == ("model", 2)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(folder: Path, tiny_model: Path) -> None:
    with pytest.raises(GtaError, match="no adapter nowhere: neither a file, nor a folder"):
        load_model(f"{tiny_model}+nowhere")
    with pytest.raises(GtaError, match="has no weights that the adapter"):
        load_model(f"vit_tiny_patch16_224@none+{folder}")
    for text, message in (("{", "cannot be read"), ("[]", "not the config"), (None, "which says")):
        config = folder / "adapter_config.json"
        config.unlink() if text is None else config.write_text(text)
        with pytest.raises(GtaError, match=message):
            load_model(f"{tiny_model}+{folder}")
