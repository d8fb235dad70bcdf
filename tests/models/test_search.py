"""Tests of the search for a network in checkpoints as other programs write them."""

from __future__ import annotations

import gzip
import logging
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from gtacli import load_model
from gtacli.errors import GtaError
from gtacli.models.files import read_network

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 8}
Tensors = dict[str, Tensor]


def small(fill: float = 1.0, classes: int = 2) -> Tensors:
    state = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **TINY).state_dict()
    return {name: torch.full_like(value, fill) for name, value in state.items()}


def below(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def within(word: str) -> Callable[[Tensors], Tensors]:
    """Return a function that puts a wrapper's word behind the number of each block."""
    return lambda t: {
        ".".join([*n.split(".")[:2], word, *n.split(".")[2:]]) if n.startswith("blocks.") else n: v
        for n, v in t.items()
    }


ONE, NONE = small(), small(0.0)
WRAPPED: dict[str, Any] = {
    "DDP around compile": below("module._orig_mod.", ONE),
    "compile around DDP": {"state_dict": below("_orig_mod.module.", ONE), "epoch": 3},
    "FSDP": below("_fsdp_wrapped_module.", within("_fsdp_wrapped_module")(ONE)),
    "checkpointed blocks": within("_checkpoint_wrapped_module")(ONE),
    "compiled blocks": within("_orig_mod")(ONE),
    "Lightning": {"state_dict": below("model.", ONE), "hyper_parameters": {"lr": 1.0}},
    "Lightning, twice": {"state_dict": below("model.model.", ONE), "loops": {}},
    "Lightning's encoder": {"state_dict": below("encoder.", ONE)},
    "Lightning with Fabric": below("_forward_module.model.", ONE),
    "metrics beside it": {"state_dict": below("net.", ONE) | {"acc.tp": torch.zeros(3)}},
    "a key of one's own": {"model_state_dict": ONE, "epoch": 1},
    "PySlowFast": {"model_state": OrderedDict(ONE), "optimizer_state": {"state": {}}},
    "nested": {"checkpoint": {"model": {"state_dict": ONE}}, "epoch": 1},
    "a backbone and a head": {"backbone": small(1.0, 0), "head": {}},
    "VISSL": {"classy_state_dict": {"base_model": {"model": {"trunk": ONE, "heads": {}}}}},
    "DeepSpeed": {"module": ONE, "optimizer": None},
    "a list": [ONE, 3],
    "nn.Sequential": below("0.", ONE),
    "words between blocks": within("_fsdp_wrapped_module.module.net")(ONE),
    "blocks in a part": {
        f"model.{'encoder.' if n.startswith(('blocks', 'norm')) else ''}{n}": v
        for n, v in ONE.items()
    },
    "an optimizer by names": {
        "net": ONE,
        "optimizer": {"state": {"patch_embed.proj.weight": {"exp_avg": torch.zeros(3)}}},
    },
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_network_is_found(tmp_path: Path, name: str, legacy: bool) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(WRAPPED[name], path, _use_new_zipfile_serialization=not legacy)
    network, _ = read_network(path)
    wanted = small(1.0, 0) if "backbone" in name else ONE
    assert set(network.tensors) == set(wanted)
    assert all(torch.equal(network.tensors[n], value) for n, value in wanted.items())
    assert network.layout is None
    assert network.others == ()


SEVERAL: dict[str, tuple[Any, str]] = {
    "timm": ({"state_dict": NONE, "state_dict_ema": ONE}, "state_dict_ema"),
    "torchvision": (
        {"model": NONE, "model_ema": {"n_averaged": torch.tensor(3), **below("module.", ONE)}},
        "model_ema",
    ),
    "SWA under any name": (
        {"a": NONE, "b": {"n_averaged": torch.tensor(3), **below("module.", ONE)}},
        "b",
    ),
    "MMEngine": (
        {"state_dict": below("backbone.", ONE),
         "ema_state_dict": {"steps": torch.tensor(3), **below("module.backbone.", NONE)}},
        "state_dict",
    ),
    "solo-learn": (
        {"state_dict": below("momentum_backbone.", NONE) | below("backbone.", ONE)}, "backbone",
    ),
    "lightly-train": (
        {"state_dict": below("student_embedding_model.wrapped_model._model.", NONE)
         | below("teacher_embedding_model.wrapped_model._model.", ONE)},
        "teacher_embedding_model",
    ),
    "MSN": (
        {"encoder": below("module.", NONE), "target_encoder": below("module.", ONE)},
        "target_encoder",
    ),
    "BYOL": (
        {"state_dict": below("target_encoder.", NONE) | below("online_encoder.", ONE)},
        "online_encoder",
    ),
    "MoCo": (
        {"state_dict": below("module.encoder_k.", NONE) | below("module.encoder_q.", ONE)
         | {"module.queue": torch.zeros(3)}},
        "encoder_q",
    ),
    "MoCo-v3": (
        {"state_dict": below("module.momentum_encoder.", NONE) | below("module.base_encoder.", ONE)
         | {"module.predictor.0.weight": torch.zeros(3)}},
        "base_encoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_networks_the_methods_own_is_read(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, label = SEVERAL[name]
    torch.save(checkpoint, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        network, _ = read_network(tmp_path / "a.pth")
    assert (network.tensors["cls_token"] if "cls_token" in network.tensors
            else network.tensors["base_encoder.cls_token"]).eq(1).all()  # fmt: skip
    assert network.label == label
    assert f"a.pth holds several networks: {label} is read, not " in caplog.text


def test_an_image_tower_is_found_beside_convolutions(tmp_path: Path) -> None:
    """`conv1` is the name of many layers; CLIP's has a class embedding beside it."""
    tower = {
        "conv1.weight": torch.ones(24, 3, 8, 8), "class_embedding": torch.ones(24),
        "positional_embedding": torch.ones(17, 24), "ln_pre.weight": torch.ones(24),
        **{f"transformer.resblocks.{i}.ln_1.weight": torch.ones(24) for i in (0, 1)},
    }  # fmt: skip
    neck = {"neck.conv1.weight": torch.ones(3, 3, 3, 3), "neck.layer.0.weight": torch.ones(3)}
    torch.save({"state_dict": neck | below("extractor.visual.", tower)}, tmp_path / "a.ckpt")
    network, _ = read_network(tmp_path / "a.ckpt")
    assert network.layout is not None
    assert network.layout.name == "CLIP"
    assert network.others == ()


def test_the_network_that_fits_the_architecture_comes_first(tmp_path: Path) -> None:
    """A large teacher beside the student that it distills."""
    student, teacher = small(), {n: v.repeat_interleave(2, 0) for n, v in NONE.items()}
    torch.save({"teacher": teacher, "student": student}, tmp_path / "a.pth")
    network, _ = read_network(tmp_path / "a.pth", lambda shape: shape[0] == 24)
    assert network.label == "student"
    assert network.tensors["cls_token"].eq(1).all()


class Wrapper(nn.Module):
    """A module that a checkpoint holds as an object, not as a state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=2, **TINY)
        self.scale = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("inner", [False, True])
def test_a_pickled_module_is_read_without_its_classes(tmp_path: Path, inner: bool) -> None:
    module = Wrapper()
    torch.save({"model": module} if inner else module.vit, tmp_path / "a.pt")
    network, _ = read_network(tmp_path / "a.pt")
    wanted = module.vit.state_dict()
    assert set(network.tensors) == set(wanted)
    assert all(torch.equal(network.tensors[n], value) for n, value in wanted.items())


def test_harmless_objects_beside_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import numpy as np

    extras = {
        "out": Path("/x"), "config": SimpleNamespace(lr=1), "best": np.float32(0.5),
        "confusion": np.eye(3), "random": np.random.RandomState(0).get_state(), "seen": {1, 2},
        "dtype": torch.float16, "device": torch.device("cpu"), "type": np.dtype("<f4"),
    }  # fmt: skip
    torch.save({"state_dict": ONE, **extras}, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        network, _ = read_network(tmp_path / "a.pth")
    assert set(network.tensors) == set(ONE)
    assert "a.pth: objects beside the weights were not read (pathlib.PosixPath, " in caplog.text


def test_prefixes_in_safetensors(tmp_path: Path) -> None:
    save_file(below("model.", ONE), tmp_path / "a.safetensors")
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.safetensors").read_bytes())  # by any name
    for name in ("a.safetensors", "a.bin"):
        assert set(read_network(tmp_path / name)[0].tensors) == set(ONE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
        (b"<!doctype html><html>", "is a web page, not weights"),
        (gzip.compress(b"weights", mtime=0), "is compressed: unpack it"),
        (bytes(257) + b"ustar" + bytes(250), "is a tar archive: unpack it"),
        (b"", "is empty"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_is_no_weights_file_is_named(
    tmp_path: Path, content: bytes, message: str, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GtaError, match=f"{name} {message}"):
        read_network(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_weights_by_the_name_of_safetensors(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.safetensors"
    torch.save({"model": ONE}, path, _use_new_zipfile_serialization=not legacy)
    assert set(read_network(path)[0].tensors) == set(ONE)


def test_arrays_of_numpy_are_named(tmp_path: Path) -> None:
    arrays = {name: value.numpy() for name, value in ONE.items()}
    torch.save({"state_dict": arrays}, tmp_path / "a.pth")
    with pytest.raises(GtaError, match=r"a\.pth has arrays of NumPy, which are not read"):
        read_network(tmp_path / "a.pth")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
    with pytest.raises(GtaError, match=r"a\.pkl is a pickle, but none of torch"):
        read_network(tmp_path / "a.pkl")


def test_why_a_file_has_too_few_tensors(tmp_path: Path) -> None:
    own = timm.create_model("vit_tiny_patch16_224", num_classes=2, depth=11).state_dict()
    adapted = {
        name.replace("attn.qkv.", "attn.qkv.base_layer."): value for name, value in own.items()
    }
    cases = {
        "eleven blocks.pth": (own, "has nothing for blocks.11.attn.qkv.weight, which would stay"),
        "adapters.pth": (adapted, "it has adapters that are not merged: merge them"),
        "mp_rank_00_model_states.pt": (
            {"module": {name: torch.empty(0) for name in own}},
            "all its tensors are empty: DeepSpeed's ZeRO-3 keeps the values in other files",
        ),
        "model-00001-of-00002.bin": (
            {name: own[name] for name in list(own)[:60]},
            "it is one of several shards: name their folder, or their index",
        ),
    }
    for file, (content, message) in cases.items():
        torch.save(content, tmp_path / file)
        with pytest.raises(GtaError, match=message):
            load_model(f"vit_tiny_patch16_224@{tmp_path / file}")


def test_a_header_as_long_as_the_sign_of_gzip_is_read(tmp_path: Path) -> None:
    data = save(ONE)
    (length,) = struct.unpack("<Q", data[:8])
    long = int.from_bytes(b"\x1f\x8b", "little")
    header = data[8 : 8 + length].ljust(long)
    content = struct.pack("<Q", long) + header + data[8 + length :]
    (tmp_path / "a.safetensors").write_bytes(content)
    assert (tmp_path / "a.safetensors").read_bytes().startswith(b"\x1f\x8b\0")
    assert set(read_network(tmp_path / "a.safetensors")[0].tensors) == set(ONE)


def test_other_formats_are_named(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "ViT-B_16.npz", a=np.zeros(3))
    with pytest.raises(GtaError, match=r"ViT-B_16\.npz is NumPy's \(\.npz\); timm's own names"):
        read_network(tmp_path / "ViT-B_16.npz")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/__0_0.distcp").touch()
    with pytest.raises(GtaError, match=r"checkpoint is a distributed checkpoint; .* dcp_to_torch"):
        read_network(tmp_path / "checkpoint")


def test_the_log_tells_which_network_was_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = timm.create_model("vit_tiny_patch16_224", num_classes=2).state_dict()
    raw = {n: torch.zeros_like(v) for n, v in own.items()}
    torch.save({"model": raw, "model_ema": own | {"n": torch.zeros(1)}}, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        loaded = load_model(f"vit_tiny_patch16_224@{tmp_path / 'a.pth'}")
    assert torch.equal(loaded.model.pos_embed, own["pos_embed"])
    assert "a.pth (model_ema): 152 loaded, 0 resized, 0 missing, 1 unexpected" in caplog.text
