"""Tests of the header of weights: what it may say, and that it describes its own tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gtacli.errors import GtaError
from gtacli.models import load_model
from gtacli.models.card import hub_card, read_card

Build = Any


@pytest.fixture
def never_built(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a network of the file's sizes be built without memory only."""
    create = timm.create_model

    def on_meta(*args: Any, **kwargs: Any) -> Any:
        assert torch.zeros(1).device.type == "meta", "a network was built with memory"
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", on_meta)


def rewrite(folder: Path, **changes: Any) -> None:
    """Change entries of a header; a dict changes entries of an entry."""
    file = folder / "model.safetensors"
    with safe_open(file, "pt") as opened:
        header = dict(opened.metadata())
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for key, value in changes.items():
        if isinstance(value, dict):
            value = json.dumps({**json.loads(header[key]), **value})
        header[key] = value
    save_file(tensors, file, header)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "path": ({"kwargs": {"checkpoint_path": "/etc/passwd"}}, "sets the argument 'checkpoint_path'"),
    "config": ({"kwargs": {"pretrained_cfg": {"file": "x"}}}, "sets the argument 'pretrained_cfg'"),
    "pretrained": ({"kwargs": {"pretrained": True}}, "sets the argument 'pretrained'"),
    "module": ({"kwargs": {"block_fn": "os.system"}}, "sets the argument 'block_fn'"),
    "name": ({"kwargs": {"act_layer": "os.system"}}, "sets act_layer to 'os.system'"),
    "type": ({"kwargs": {"embed_dim": "big"}}, "sets embed_dim to 'big'"),
    "switch": ({"kwargs": {"qkv_bias": 7}}, "sets qkv_bias to '7'"),
    "sides": ({"kwargs": {"patch_size": [8, 8, 8]}}, r"sets patch_size to '\[8, 8, 8\]'"),
    "width": ({"kwargs": {"embed_dim": 16383}}, r"it describes \S+ as \(.*16383"),
    "depth": ({"kwargs": {"depth": 200}}, "it describes 200 blocks"),
    "depth 10^6": ({"kwargs": {"depth": 10**6}}, "sets depth to '1000000'"),
    "ratio": ({"kwargs": {"mlp_ratio": 9999}}, r"it describes blocks\.0\.mlp\.fc1\.weight as"),
    "registers": ({"kwargs": {"reg_tokens": 60000}}, "parameters more than|pos_embed"),
    "architecture": ({"architecture": "vit_giant_patch14_dinov2"}, "it describes"),
    "hub": ({"architecture": "hf-hub:evil/x"}, "names no architecture of timm"),
    "image size": ({"image_size": "[8000, 8000]"}, "it describes pos_embed as"),
    "huge image": ({"image_size": "[800000, 8]"}, "`image_size` of its header must be at most"),
    "mean": ({"mean": "[NaN, 1, 1]"}, "`mean` of its header: it holds NaN"),
    "std": ({"std": "[0, 1, 1]"}, "`std` of its header must be more than 0"),
    "interpolation": ({"interpolation": "magic"}, "`interpolation` of its header must be one of"),
    "crop": ({"crop_pct": "1e400"}, "`crop_pct` of its header: its number 1e400 is too large"),
    "classes": ({"classes": '{"a": 1}'}, "`classes` of its header must be a list"),
    "text": ({"kwargs": "{"}, "`kwargs` of its header: it is not JSON"),
    "list": ({"kwargs": "[]"}, "`kwargs` of its header must be a table"),
    "deep": ({"kwargs": "[" * 9999}, "`kwargs` of its header: its values are nested"),
}


@pytest.mark.usefixtures("never_built")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_header_is_refused_before_anything_is_built(tiny_model: Path, kind: str) -> None:
    changes, message = REFUSED[kind]
    rewrite(tiny_model, **changes)
    for spec in (str(tiny_model), f"vit_tiny_patch16_224@{tiny_model / 'model.safetensors'}"):
        if "architecture" in changes and "@" in spec:
            continue  # its arguments are not used then
        with pytest.raises(GtaError, match=message) as caught:
            load_model(spec, partial_weights=True)
        assert "model.safetensors: " in str(caught.value)
        assert "\n" not in str(caught.value)


def test_untrained_networks_of_a_strangers_sizes_are_refused_too(tiny_model: Path) -> None:
    rewrite(tiny_model, kwargs={"embed_dim": 16384})
    with pytest.raises(GtaError, match="it describes"):
        load_model(str(tiny_model), untrained=True)


def test_embeddings_of_another_size_are_resized_if_the_header_has_none(tmp_path: Path) -> None:
    kwargs = {"embed_dim": 24, "depth": 2, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, **kwargs)
    header = {"architecture": "vit_tiny_patch16_224", "kwargs": json.dumps(kwargs)}
    save_file(model.state_dict(), tmp_path / "model.safetensors", header)
    assert load_model(str(tmp_path)).report.resized == ("pos_embed",)


def test_a_header_of_this_program_is_read(tiny_model: Path) -> None:
    with safe_open(tiny_model / "model.safetensors", "pt") as opened:
        card = read_card(opened.metadata(), "a.safetensors")
    assert card.kwargs
    assert card.architecture == "vit_tiny_patch16_224"
    assert read_card({"input_mean": "0.1, 0.2,0.3", "format": "pt"}, "x").mean == (0.1, 0.2, 0.3)


CONFIG = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.1] * 3}}
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "path": ({"model_args": {"checkpoint_path": "x"}}, "sets the argument 'checkpoint_path'"),
    "width": ({"model_args": {"embed_dim": 16383}}, "it describes .* parameters more than"),
    "depth": ({"model_args": {"depth": 10**6}}, "sets depth to '1000000'"),
    "loader": ({"pretrained_cfg": {"custom_load": "hf"}}, "asks for a loader of its own"),
    "mean": ({"pretrained_cfg": {"mean": [0.1, 0.1, "a"]}}, "`mean` of its config.json must be"),
    "arguments": ({"model_args": [1]}, "is no object"),
    "classifier": ({"pretrained_cfg": {"classifier": 3}}, "`classifier` .* is no name of a layer"),
    "layers": ({"pretrained_cfg": {"first_conv": [[]]}}, "`first_conv` .* is no name of a layer"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_config_of_a_hub_folder_is_refused(tmp_path: Path, kind: str) -> None:
    save_file({"blocks.0.norm1.weight": torch.ones(9)}, tmp_path / "model.safetensors")
    changes, message = CONFIGS[kind]
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises(GtaError, match=message):
        load_model(f"local-dir:{tmp_path}")


def test_pickled_weights_of_a_hub_folder_are_examined(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(GtaError, match="has a tensor of shape"):
        load_model(f"local-dir:{tmp_path}")


def test_configs_of_published_folders_are_accepted() -> None:
    """The legacy layout, in which the config is the card itself."""
    plain = {"architecture": "vit_tiny_patch16_224", "mean": [0.5] * 3, "std": [0.5] * 3}
    card = hub_card({**plain, "labels": ["a"], "num_features": 192, "crop_pct": 0.9}, "x")
    assert (card.mean, card.crop_pct) == ((0.5, 0.5, 0.5), 0.9)
