"""Tests of the plug-in gta-transformers: parity with the forward passes of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gta_transformers.family import Transformers
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import GtaError
from gtacli.finetuning.run import finetune
from gtacli.models import attention, load_model
from gtacli.registry import MODELS
from gtacli.runtime.fetching import recorded_specs

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
MLP = {"intermediate_size": 100}
# Kind of config and model in transformers, and what is changed in the config.
VIT = {**MLP, "layer_norm_eps": 1e-6}
NETWORKS: list[tuple[str, str, dict[str, Any]]] = [
    ("ViTConfig", "ViTModel", VIT),
    ("ViTConfig", "ViTModel", {**VIT, "qkv_bias": False, "hidden_act": "gelu_new"}),
    ("ViTConfig", "ViTForImageClassification", {**VIT, "num_labels": 7}),
    ("ViTConfig", "ViTModel", {**VIT, "image_size": [24, 40]}),
    ("Dinov2Config", "Dinov2Model", {}),
    ("Dinov2Config", "Dinov2Model", {"use_swiglu_ffn": True}),
    ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {"num_register_tokens": 3}),
    ("DINOv3ViTConfig", "DINOv3ViTModel", {**MLP, "num_register_tokens": 2}),
    ("DINOv3ViTConfig", "DINOv3ViTModel", {**MLP, "use_gated_mlp": True, "hidden_act": "silu"}),
    ("DINOv3ViTConfig", "DINOv3ViTModel", {**MLP, "rope_theta": 50.0}),
    ("SiglipVisionConfig", "SiglipVisionModel", MLP),
    ("SiglipConfig", "SiglipModel", {}),
]


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    with MODELS.registered("transformers", Transformers):
        yield


def build(config: str, model: str, changes: dict[str, Any]) -> Any:
    """Return a network of transformers whose parameters are random everywhere."""
    transformers = pytest.importorskip("transformers")
    values = {**SMALL, **changes}
    if config == "SiglipConfig":
        values = {"vision_config": {**SMALL, **MLP}, "text_config": {**SMALL, **MLP}}
        for key in ("image_size", "patch_size"):
            del values["text_config"][key]
        values["text_config"] |= {"vocab_size": 50, "projection_size": 48}
    torch.manual_seed(0)
    network = getattr(transformers, model)(
        getattr(transformers, config)(**values, attn_implementation="eager")
    )
    for name, p in network.named_parameters():
        scaled = p.ndim == 1 and not name.endswith("bias")
        p.data = torch.randn_like(p) * 0.2 + scaled
    return network.eval()


def vision(network: Any) -> Any:
    return network.vision_model if hasattr(network, "vision_model") else network


@pytest.mark.parametrize(("config", "model", "changes"), NETWORKS)
def test_parity(config: str, model: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Features, pooled features and the CLS row's attention of every block, in float64."""
    network = build(config, model, changes)
    network.save_pretrained(tmp_path)
    loaded = load_model(f"transformers:{tmp_path}")
    assert loaded.report.missing == ()
    assert loaded.report.unexpected == ()
    network, ours = network.double(), loaded.model.double()
    images = torch.randn(2, 3, *loaded.image_size, dtype=torch.float64)
    with torch.no_grad():
        theirs = vision(network)(images, output_attentions=True, output_hidden_states=True)
        taps = attention(ours, images, range(3), rows="all")
        features = ours.forward_features(images)
        outputs = ours(images)
    hidden = theirs.hidden_states[-1] if "logits" in theirs else theirs.last_hidden_state
    if "logits" in theirs:
        assert loaded.classes == ()
        torch.testing.assert_close(outputs, theirs.logits, rtol=0, atol=1e-5)
        hidden = network.vit.layernorm(hidden)
    torch.testing.assert_close(features, hidden, rtol=0, atol=1e-5)
    for tap, weights in zip(taps, theirs.attentions, strict=True):
        torch.testing.assert_close(
            tap.logits.log_softmax(-1), weights.log(), rtol=0, atol=1e-5, check_dtype=False
        )
    if config.startswith("Siglip"):
        torch.testing.assert_close(outputs, theirs.pooler_output, rtol=0, atol=1e-5)


def test_layer_norms_of_vit(tmp_path: Path) -> None:
    """Those of transformers have an eps of 1e-12, timm's of 1e-6."""
    network = build("ViTConfig", "ViTModel", MLP)
    network.save_pretrained(tmp_path)
    loaded = load_model(f"transformers:{tmp_path}")
    images = torch.randn(2, 3, *loaded.image_size)
    with torch.no_grad():
        expected = network(images).last_hidden_state
        found = loaded.model.forward_features(images)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_float32(tmp_path: Path) -> None:
    network = build(*NETWORKS[4])
    network.save_pretrained(tmp_path)
    loaded = load_model(f"transformers:{tmp_path}")
    images = torch.randn(2, 3, *loaded.image_size)
    with torch.no_grad():
        expected = network(images).last_hidden_state
        torch.testing.assert_close(
            loaded.model.forward_features(images), expected, rtol=0, atol=1e-5
        )


def test_what_the_folder_says(tmp_path: Path) -> None:
    network = build("ViTConfig", "ViTForImageClassification", {**MLP, "num_labels": 2})
    network.config.id2label = {0: "bird", 1: "cat"}
    network.save_pretrained(tmp_path)
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    loaded = load_model(f"transformers:{tmp_path}")
    assert loaded.classes == ("bird", "cat")
    assert loaded.mean == (0.1, 0.2, 0.3)
    assert loaded.image_size == (32, 32)
    (tmp_path / "preprocessor_config.json").unlink()
    assert load_model(f"transformers:{tmp_path}").mean == (0.5, 0.5, 0.5)


def test_published_sizes_have_their_names(tmp_path: Path) -> None:
    from gta_transformers.kinds import KINDS, Config

    sizes = {"hidden_size": 384, "num_attention_heads": 6}
    cases = [
        ("vit", {}, "vit_base_patch16_224"),
        ("vit", {**sizes, "intermediate_size": 1536}, "vit_small_patch16_224"),
        ("dinov2", sizes, "vit_small_patch14_dinov2"),
        ("dinov2_with_registers", sizes, "vit_small_patch14_reg4_dinov2"),
        ("dinov3_vit", {"num_register_tokens": 4}, "vit_small_patch16_dinov3"),
        ("siglip", {"image_size": 384}, "vit_base_patch16_siglip_384"),
    ]
    for word, values, name in cases:
        assert KINDS[word].describe(Config(values, "config.json"))[0] == name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Transformers().write_example(tmp_path)
    return tmp_path


def test_a_run_from_it_needs_the_folder_no_more(
    folder: Path, tiny_data: Path, recorder: Any, tmp_path: Path
) -> None:
    """The run's own header has the arguments of the network."""
    values = {"model": f"transformers:{folder}", "data": str(tiny_data), "out": tmp_path / "run"}
    config = FinetuneConfig(
        **values, epochs=1, batch_size=8, device="cpu", workers=0, lam=0.1, linear_probe=False
    )
    finetune(config, recorder)
    (folder / "config.json").unlink()
    loaded = load_model(str(tmp_path / "run"))
    assert len(loaded.model.blocks) == 2
    assert loaded.model.embed_dim == 24
    assert loaded.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "swin"}, "is of the kind 'swin'; known: vit, dinov2"),
        ({"model_type": ["vit"]}, "is of the kind"),
        ({"model_type": "dinov2"}, "its config.json says dinov2, but its tensors are not named so"),
        ({"hidden_act": "mish"}, "its hidden_act is 'mish'; known: gelu"),
        ({"hidden_size": 25}, "its hidden_size 25 is not a multiple of its 3 attention heads"),
        ({"hidden_size": 10**9}, "no number that a network has"),
        ({"hidden_size": "24"}, "no number that a network has"),
        ({"hidden_size": 48}, "describes cls_token as (1, 1, 48), but has it as (1, 1, 24)"),
        ({"num_hidden_layers": 12}, "it describes 12 blocks (`depth`), but has 2"),
        ({"layer_norm_eps": 0.1}, "its layer_norm_eps is 0.1; timm's network has 1e-06"),
        ({"image_size": [1, 2, 3]}, "no size in pixels"),
        ({"image_size": 64}, "it describes pos_embed as (1, 65, 24), but has it as (1, 17, 24)"),
        ({"qkv_bias": 1}, "neither true nor false"),
        ({"vision_config": 3}, "its vision_config is no object"),
    ],
)
def test_bad_configs(folder: Path, changes: dict[str, Any], reason: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(GtaError) as error:
        load_model(f"transformers:{folder}")
    assert reason in str(error.value)


def test_bad_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GtaError, match="no folder 'no/such/folder'; write transformers:FOLDER"):
        load_model("transformers:no/such/folder")
    with pytest.raises(GtaError, match="write transformers:FOLDER or"):
        load_model("transformers:")
    (folder / "config.json").write_text("[" * 2000)
    with pytest.raises(GtaError, match=r"config\.json cannot be read \(its values are nested"):
        load_model(f"transformers:{folder}")
    (folder / "config.json").unlink()
    with pytest.raises(GtaError, match=r"is no model of transformers: it has no config\.json"):
        load_model(f"transformers:{folder}")


def test_damaged_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("vit.embeddings.cls_token")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(GtaError, match="has nothing for cls_token"):
        load_model(f"transformers:{folder}")


def test_a_record_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("opens a connection")

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with (
        recorded_specs("run.json", allow_fetch=False),
        pytest.raises(GtaError, match=r"owner/name, which is not cached here, is not downloaded"),
    ):
        load_model("transformers:owner/name")


def test_the_hub_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gta_transformers.family.why_hub_unreachable", lambda: "the hub does not answer"
    )
    with pytest.raises(GtaError, match="neither a folder nor in the cache, and the hub does not"):
        load_model("transformers:owner/name@main")
