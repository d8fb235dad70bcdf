"""Tests of the features that a classifier reads, also after its model was saved and loaded."""

from __future__ import annotations

import json
import logging
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli import load_model
from gtacli.errors import GtaError, UsageError
from gtacli.models.fingerprint import fingerprint
from gtacli.models.metadata import model_metadata
from gtacli.models.pooling import name_pool, set_pool
from gtacli.models.tap import Request, TappedViT

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {}),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 3}),
    "norm after pooling": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "mean of all tokens": (
        "vit_tiny_patch16_224",
        {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True, "reg_tokens": 1},
    ),
    "largest": ("vit_tiny_patch16_224", {"global_pool": "max", "fc_norm": False}),
    "eva": ("eva02_tiny_patch14_224", {"use_rot_pos_emb": False, "dynamic_img_size": False}),
    "eva registers": ("vit_small_patch16_dinov3", {"num_reg_tokens": 2, "use_fc_norm": False}),
}
POOLS: tuple[Any, ...] = ("cls", "mean", "cls+mean")
CLASSES = ("a", "b", "c")


def save(folder: Path, kind: str, name: str = "model") -> str:
    """Save random weights of a tiny model as a run folder; return the spec."""
    architecture, kwargs = KINDS[kind]
    torch.manual_seed(3)
    model = timm.create_model(architecture, num_classes=3, **SIZES, **kwargs)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    path = folder / name
    path.mkdir()
    own = {**{k: v for k, v in SIZES.items() if k != "img_size"}, **kwargs}
    header = {
        "architecture": architecture,
        "kwargs": json.dumps(own),
        "image_size": "[32, 32]",
        "classes": json.dumps(CLASSES),
    }
    save_file(model.state_dict(), path / "model.safetensors", header)
    return str(path)


def save_again(loaded: Any, folder: Path) -> str:
    """Save a loaded model as a run does; return the spec."""
    folder.mkdir()
    tensors = {k: v.contiguous() for k, v in loaded.model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", model_metadata(loaded, CLASSES))
    return str(folder)


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(8))


def expected_features(model: Any, pool: str) -> Tensor:
    """Return the features by the formula, from the output of the last block."""
    tokens = model.norm(TappedViT(model, Request(hidden=(1,), output=False))(images()).hidden[0])
    cls, mean = tokens[:, 0], tokens[:, -16:].sum(1) / 16  # 4 x 4 patches
    parts = {"cls": [cls], "mean": [mean], "cls+mean": [cls, mean]}[pool]
    return torch.cat([model.fc_norm(part) for part in parts], 1)


def logits_of(model: nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(images())
    return logits


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_and_files(kind: str, pool: Any, tmp_path: Path) -> None:
    spec = save(tmp_path, kind)
    loaded = load_model(spec, pool=pool)
    model: Any = loaded.model
    assert name_pool(model) == pool
    features = expected_features(model, pool)
    nn.init.normal_(model.head.weight)
    nn.init.normal_(model.head.bias)
    logits = F.linear(features, model.head.weight, model.head.bias)
    torch.testing.assert_close(model(images()), logits)
    # With the tap, with and without features.
    torch.testing.assert_close(TappedViT(model)(images()).logits, logits)
    outputs = TappedViT(model, Request((0, 1), features=True))(images())
    torch.testing.assert_close(outputs.logits, logits)
    torch.testing.assert_close(outputs.features, features)
    for copied in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(images()), model(images()))
    # Saved and loaded.
    again = load_model(save_again(loaded, tmp_path / "again"))
    assert torch.equal(again.model(images()), model(images()))
    assert again.classes == CLASSES
    assert not again.report.new_head
    assert fingerprint(again.model) == fingerprint(model)
    headless = load_model(str(tmp_path / "again"), 0)
    torch.testing.assert_close(headless.model(images()), features)
    if pool == "cls+mean":
        assert model.head.weight.shape == (3, 48)
        assert headless.model.num_features == features.shape[1] == 48
        return
    assert loaded.kwargs is not None
    plain = timm.create_model(loaded.architecture, num_classes=3, img_size=32, **loaded.kwargs)
    plain.load_state_dict(load_file(tmp_path / "again" / "model.safetensors"))  # strictly
    assert torch.equal(plain.eval()(images()), model(images()))


def test_what_a_model_has_already_changes_nothing(tmp_path: Path) -> None:
    spec = save(tmp_path, "plain")
    own, asked = load_model(spec), load_model(spec, pool="cls")
    assert own.kwargs == asked.kwargs
    assert torch.equal(logits_of(own.model), logits_of(asked.model))
    assert asked.report.loaded == own.report.loaded


def test_pooling_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    model = load_model(save(tmp_path, "plain")).model
    before = fingerprint(model)
    set_pool(model, "mean")
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    ("architecture", "pool", "message"),
    [
        ("deit_tiny_distilled_patch16_224", "cls", "averages two classifiers, on two tokens"),
        ("vit_base_patch16_siglip_224", "mean", "pools by attention, with weights of its own"),
        ("vit_base_patch16_gap_224", "cls", "has no CLS token; use `pool=mean`"),
        ("vit_base_patch16_gap_224", "cls+mean", "has no CLS token; use `pool=mean`"),
    ],
)
def test_models_that_cannot(architecture: str, pool: Any, message: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=3, depth=1)
    with pytest.raises(UsageError, match=f"^pool: this model {message}") as raised:
        set_pool(model, pool)
    assert "\n" not in str(raised.value)


def test_a_header_that_does_not_fit(tmp_path: Path) -> None:
    spec = save(tmp_path, "plain")
    file = Path(spec) / "model.safetensors"
    tensors = load_file(file)
    del tensors["cls_token"]
    header = {"architecture": "vit_tiny_patch16_224", "pool": "cls+mean", "image_size": "[32, 32]"}
    kwargs = {**SIZES, "class_token": False, "global_pool": "avg", "fc_norm": False}
    tensors["pos_embed"] = tensors["pos_embed"][:, 1:].contiguous()
    save_file(tensors, file, {**header, "kwargs": json.dumps(kwargs)})
    with pytest.raises(
        GtaError, match=r"its header says .* cls.mean, but this model has no CLS to"
    ):
        load_model(spec)
    save_file(tensors, file, {**header, "pool": "best"})
    with pytest.raises(GtaError, match="`pool` of its header must be"):
        load_model(spec)


@pytest.mark.parametrize(
    ("own", "init", "pool", "kept"),
    [
        ("plain", "plain", None, True),
        ("plain", "plain", "mean", False),
        ("plain", "largest", None, False),
        ("largest", "plain", None, False),
        ("largest", "plain", "cls", True),
        ("plain", "both", None, False),
        ("plain", "both", "cls+mean", True),
        ("both", "plain", None, False),
        ("both", "plain", "cls", True),
        ("both", "both", None, True),
        ("none", "both", None, True),
        ("none", "largest", None, True),
    ],
)
def test_a_classifier_stays_with_its_features(
    own: str, init: str, pool: Any, kept: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A classifier of other weights is loaded only where it reads what it was trained on."""
    caplog.set_level(logging.INFO)
    specs = {kind: save(tmp_path, kind, kind) for kind in ("plain", "largest")}
    specs["both"] = save_again(load_model(specs["plain"], pool="cls+mean"), tmp_path / "both")
    specs["none"] = "vit_tiny_patch16_224@none"
    caplog.clear()
    loaded = load_model(specs[own], 3, 32, init=specs[init], pool=pool)
    assert bool(loaded.report.new_head) != kept
    told = [line for line in caplog.messages if "new classifier: that of" in line]
    assert len(told) == (not kept)
    before = load_model(specs[init])
    if kept:
        assert torch.equal(logits_of(loaded.model), logits_of(before.model))
    else:
        assert f"reads {name_pool(before.model)}, not {name_pool(loaded.model)} (" in told[0]
        assert name_pool(loaded.model) == (pool or name_pool(load_model(specs[own]).model))
