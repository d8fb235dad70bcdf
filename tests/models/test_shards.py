"""Tests of weights in shards, and of folders as timm and transformers write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from gtacli import load_model
from gtacli.errors import GtaError

ARCH = "vit_tiny_patch16_224"
MEAN = [0.1, 0.2, 0.3]
CONFIG = {
    "architecture": ARCH,
    "num_classes": 5,
    "model_args": {"depth": 2},
    "pretrained_cfg": {"mean": MEAN, "std": [0.5] * 3, "num_classes": 5},
}


def network() -> dict[str, Tensor]:
    return timm.create_model(ARCH, num_classes=5, depth=2).state_dict()


def write_shards(folder: Path, tensors: dict[str, Tensor], kind: str = "safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names, where = list(tensors), {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        shard = folder / f"{stem}-0000{number}-of-00002.{kind}"
        inner = {name: tensors[name].contiguous() for name in part}
        if kind == "safetensors":
            save_file(inner, shard, {"format": "pt"})
        else:
            torch.save(inner, shard)
        where |= dict.fromkeys(part, shard.name)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("spec", ["{index}", "{folder}", "{arch}@{index}", "{arch}@{folder}",
                                  "local-dir:{folder}"])  # fmt: skip
def test_shards_are_loaded_by_folder_and_by_index(tmp_path: Path, kind: str, spec: str) -> None:
    tensors = network()
    index = write_shards(tmp_path / "x", tensors, kind)
    (tmp_path / "x/config.json").write_text(json.dumps(CONFIG))
    loaded = load_model(spec.format(index=index, folder=index.parent, arch=ARCH))
    assert loaded.mean == tuple(MEAN)
    state = loaded.model.state_dict()
    assert set(state) == set(tensors)
    assert all(torch.equal(state[name], value) for name, value in tensors.items())


def test_shards_whose_config_has_only_an_architecture(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "x", network())
    config = {"architecture": ARCH, "model_args": {"depth": 2}}
    (tmp_path / "x/config.json").write_text(json.dumps(config))
    assert load_model(str(index.parent)).architecture == ARCH


def test_config_of_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    save_file(network(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"architecture": "vit_tyni"}))
    with pytest.raises(GtaError, match="unknown architecture 'vit_tyni'"):
        load_model(str(tmp_path))


def test_shards_without_a_config_need_the_architecture(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "x", timm.create_model(ARCH, num_classes=0).state_dict())
    assert load_model(f"{ARCH}@{index}").report.coverage == 1
    with pytest.raises(GtaError, match="is not a run folder"):
        load_model(str(index.parent))


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 3, None, "a\\b"]
)
def test_shards_do_not_leave_their_folder(tmp_path: Path, name: Any) -> None:
    save_file(network(), tmp_path / "other.safetensors")
    index = write_shards(tmp_path / "x", network())
    index.write_text(json.dumps({"weight_map": dict.fromkeys(network(), name)}))
    with pytest.raises(GtaError, match="names a shard outside its folder"):
        load_model(f"{ARCH}@{index}")


def test_shards_that_are_not_as_the_index_says(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "x", network())
    content = json.loads(index.read_text())
    content["weight_map"]["cls_token"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(GtaError, match=r"00002-of-00002\.safetensors lacks 'cls_token'"):
        load_model(f"{ARCH}@{index}")
    index.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(GtaError, match="is no index of shards"):
        load_model(f"{ARCH}@{index}")
    index = write_shards(tmp_path / "y", network())
    (tmp_path / "y/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(GtaError, match=r"no weights file .*00002-of-00002\.safetensors"):
        load_model(f"{ARCH}@{index}")


def hugging_face(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a timm ViT as transformers saves its ViTForImageClassification."""
    out = {}
    renames = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj":
        "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    top = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "head": "classifier",
        "norm": "vit.layernorm",
    }
    for name, value in t.items():
        if name.startswith("blocks."):
            _, number, inner = name.split(".", 2)
            layer = f"vit.encoder.layer.{number}"
            if inner.startswith("attn.qkv"):
                for key, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    out[f"{layer}.attention.attention.{key}.{inner[9:]}"] = part.clone()
                continue
            for ours, theirs in renames.items():
                inner = inner.replace(ours, theirs)
            out[f"{layer}.{inner}"] = value
        else:
            old = next(key for key in top if name == key or name.startswith(f"{key}."))
            out[top[old] + name[len(old) :]] = value
    return out


def test_folder_of_transformers(tmp_path: Path) -> None:
    """Its normalization, heads and classes are those that its configs say."""
    source = timm.create_model(ARCH, num_classes=3, num_heads=6).eval()
    save_file(hugging_face(source.state_dict()), tmp_path / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "vit", "num_attention_heads": 6,
        "id2label": {"0": "cat", "1": "dog", "2": "owl"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    images = {"do_normalize": True, "image_mean": MEAN, "image_std": [0.4, 0.4, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    for spec in (f"{ARCH}@{tmp_path}", f"{ARCH}@{tmp_path / 'model.safetensors'}"):
        loaded = load_model(spec)
        assert (loaded.mean, loaded.std) == (tuple(MEAN), (0.4, 0.4, 0.4))
        assert loaded.classes == ("cat", "dog", "owl")
        x = torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            torch.testing.assert_close(loaded.model(x), source(x))
    with pytest.raises(GtaError, match=r"is a vit of transformers.*use ARCH@"):
        load_model(str(tmp_path))


def test_folder_with_several_files_is_not_guessed(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        torch.save(network(), tmp_path / name)
    with pytest.raises(GtaError, match=r"several weights files \(a\.pth, b\.pth"):
        load_model(f"{ARCH}@{tmp_path}")
    (tmp_path / "b.pth").unlink()
    torch.save(timm.create_model(ARCH).state_dict(), tmp_path / "a.pth")
    assert load_model(f"{ARCH}@{tmp_path}").report.coverage == 1
