"""Tests of model specs and weights files, and of their messages."""

from __future__ import annotations

import json
import logging
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from gtacli import load_model
from gtacli.errors import GtaError
from gtacli.models.metadata import model_metadata
from gtacli.models.weights import load_weights
from gtacli.runtime.run_folder import RunFolder

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}


def test_run_folder(tiny_model: Path) -> None:
    loaded = load_model(str(tiny_model))
    assert loaded.architecture == "vit_tiny_patch16_224"
    assert loaded.grid == (4, 4)
    assert loaded.num_prefix_tokens == 1
    assert len(loaded.report.loaded) == len(loaded.model.state_dict())
    assert not loaded.model.training
    saved = load_file(tiny_model / "model.safetensors")
    assert all(torch.equal(v, saved[k]) for k, v in loaded.model.state_dict().items())


@pytest.mark.parametrize("size", [48, (32, 64), (64, 24)])
def test_position_embeddings_follow_the_size(tiny_model: Path, size: Any) -> None:
    loaded = load_model(str(tiny_model), image_size=size)
    h, w = size if isinstance(size, tuple) else (size, size)
    assert loaded.grid == (h // 8, w // 8)
    assert loaded.report.resized == ("pos_embed",)
    # timm's own resampling of the same embeddings.
    reference = timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY)
    reference.load_state_dict(load_file(tiny_model / "model.safetensors"))
    reference.set_input_size(img_size=(h, w))
    torch.testing.assert_close(loaded.model.pos_embed, reference.pos_embed)
    x = torch.randn(1, 3, h, w)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), reference.eval()(x))


def test_position_embeddings_of_registers_and_distillation(tmp_path: Path) -> None:
    for arch, size in (
        ("vit_small_patch14_reg4_dinov2", 56),
        ("deit_tiny_distilled_patch16_224", 64),
    ):
        small = {"embed_dim": 24, "depth": 2, "num_heads": 3}
        old = timm.create_model(arch, img_size=size, num_classes=3, **small)
        new = timm.create_model(arch, img_size=(size, 2 * size), num_classes=3, **small)
        report = load_weights(new, old.state_dict(), "x")
        assert report.resized == ("pos_embed",)
        old.set_input_size(img_size=(size, 2 * size))
        torch.testing.assert_close(new.pos_embed, old.pos_embed)


def test_patch_embedding_follows_the_patch_size(tiny_model: Path) -> None:
    tensors = load_file(tiny_model / "model.safetensors")
    other = timm.create_model("vit_tiny_patch16_224", num_classes=7, **{**TINY, "patch_size": 16})
    report = load_weights(other, tensors, "x")
    assert set(report.resized) == {"pos_embed", "patch_embed.proj.weight"}


def test_another_number_of_classes_gives_a_new_head(tiny_model: Path) -> None:
    report = load_model(str(tiny_model), num_classes=5).report
    assert set(report.new_head) == {"head.weight", "head.bias"}
    assert not report.missing
    headless = load_model(str(tiny_model), num_classes=0).report
    assert set(headless.unexpected) == {"head.weight", "head.bias"}


def file_of(tmp_path: Path, name: str, save: Any) -> str:
    path = tmp_path / name
    save(path)
    return f"vit_tiny_patch16_224@{path}"


def full(**kwargs: Any) -> dict[str, torch.Tensor]:
    return timm.create_model("vit_tiny_patch16_224", **kwargs).state_dict()


def test_weights_files(tmp_path: Path) -> None:
    tensors = full()
    wrapped = {"module." + k: v for k, v in tensors.items()}
    files = [
        file_of(tmp_path, "a.safetensors", lambda p: save_file(tensors, p)),
        file_of(tmp_path, "b.pth", lambda p: torch.save(tensors, p)),
        file_of(tmp_path, "c.pth", lambda p: torch.save({"state_dict": tensors, "epoch": 3}, p)),
        file_of(tmp_path, "d.pth", lambda p: torch.save({"model": wrapped}, p)),
    ]
    for spec in files:
        loaded = load_model(spec)
        assert len(loaded.report.loaded) == len(tensors)
        assert torch.equal(loaded.model.norm.weight, tensors["norm.weight"])
        assert loaded.mean == (0.5, 0.5, 0.5)
        assert loaded.crop_pct == 0.9


def test_normalization_of_the_file_is_used(tmp_path: Path) -> None:
    meta = {"input_mean": "0.1,0.2,0.3", "input_std": "0.4,0.5,0.6"}
    spec = file_of(tmp_path, "a.safetensors", lambda p: save_file(full(), p, meta))
    loaded = load_model(spec)
    assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    view = loaded.preprocess(Image.new("RGB", (300, 260), (51, 51, 51)))
    assert view.shape == (3, 224, 224)
    expected = [(0.2 - m) / s for m, s in zip(loaded.mean, loaded.std, strict=True)]
    torch.testing.assert_close(view[:, 5, 5], torch.tensor(expected), atol=1e-5, rtol=0)


def test_random_weights() -> None:
    report = load_model("vit_tiny_patch16_224@none", 3, 32).report
    assert not report.loaded
    assert report.coverage == 1


def test_local_hub_folder(tmp_path: Path) -> None:
    """A folder in the layout of a hub repository."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 7,
        "model_args": TINY,
        "pretrained_cfg": {"mean": [0.1, 0.1, 0.1], "std": [0.2, 0.2, 0.2], "num_classes": 7},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_model(f"local-dir:{tmp_path}", num_classes=2)
    assert loaded.mean == (0.1, 0.1, 0.1)
    assert loaded.grid == (4, 4)
    assert loaded.report.new_head
    assert torch.equal(loaded.model.norm.weight, model.norm.weight)
    # Pickled, with what a training keeps beside the weights.
    mark = tmp_path / "ran"
    (tmp_path / "model.safetensors").unlink()
    torch.save({"state_dict": model.state_dict(), "x": Bomb(mark)}, tmp_path / "pytorch_model.bin")
    again = load_model(f"local-dir:{tmp_path}")
    assert torch.equal(again.model.norm.weight, model.norm.weight)
    assert not mark.exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("legacy", [False, True])
def test_what_a_pickle_calls_is_not_run(tmp_path: Path, legacy: bool) -> None:
    """The weights beside it are read; without weights there is nothing to read."""
    mark, path = tmp_path / "ran", tmp_path / "a.pth"
    bombs = {"x": Bomb(mark), "args": Namespace(a=Bomb(mark))}
    torch.save({"model": full(), **bombs}, path, _use_new_zipfile_serialization=not legacy)
    assert len(load_model(f"vit_tiny_patch16_224@{path}").report.loaded) == 152
    torch.save(bombs, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(GtaError, match="holds no tensors of a model; it holds x, args"):
        load_model(f"vit_tiny_patch16_224@{path}")
    path.write_bytes(pickle.dumps({"model": Bomb(mark)}))
    with pytest.raises(GtaError, match="is a pickle, but none of torch"):
        load_model(f"vit_tiny_patch16_224@{path}")
    assert not mark.exists()


def test_damaged_and_mismatched_files(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_file(full(), good)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:1000])
    with pytest.raises(GtaError, match="damaged"):
        load_model(f"vit_tiny_patch16_224@{cut}")
    empty = tmp_path / "empty.pth"
    empty.touch()
    with pytest.raises(GtaError, match="damaged"):
        load_model(f"vit_tiny_patch16_224@{empty}")
    with pytest.raises(GtaError, match="no weights file"):
        load_model(f"vit_tiny_patch16_224@{tmp_path / 'missing.pth'}")
    with pytest.raises(GtaError, match=r"fills only \d+ of 150.*the right architecture$"):
        load_model(f"vit_small_patch16_224@{good}")
    with pytest.raises(GtaError, match="ARCH@"):
        load_model(str(good))
    half = tmp_path / "half.safetensors"
    save_file({k: v for k, v in full().items() if "blocks.1" not in k}, half)
    with pytest.raises(GtaError, match="`partial_weights`"):
        load_model(f"vit_tiny_patch16_224@{half}", partial_weights=False)
    report = load_model(f"vit_tiny_patch16_224@{half}", partial_weights=True).report
    assert report.coverage < 0.9
    assert "blocks.1.norm1.weight" in report.missing
    save_file({k: v for k, v in full().items() if k < "blocks.4"}, half)
    with pytest.raises(GtaError, match=r"fills only 7\d of 150.*accepts at least 50% of them"):
        load_model(f"vit_tiny_patch16_224@{half}", partial_weights=True)


@pytest.mark.parametrize("name", ["cls_token", "pos_embed", "patch_embed.proj.bias"])
def test_nothing_before_the_first_block_stays_random(tmp_path: Path, name: str) -> None:
    """Such a file fills 99 % of the tensors, and yet every feature would be another one."""
    spec = file_of(tmp_path, "a.pth", lambda p: torch.save(
        {k: v for k, v in full().items() if k != name}, p
    ))  # fmt: skip
    with pytest.raises(GtaError, match=f"a.pth has nothing for {name}, which every block"):
        load_model(spec)
    assert load_model(spec, partial_weights=True).report.missing == (name,)


def test_names_of_file_and_model_stand_side_by_side(tmp_path: Path) -> None:
    other = {k.replace("attn.qkv", "attn.to_qkv"): v for k, v in full().items()}
    spec = file_of(tmp_path, "a.pth", lambda p: torch.save(other, p))
    text = r"the model has blocks\.0\.attn\.qkv\.weight, the file blocks\.0\.attn\.to_qkv\.weight"
    with pytest.raises(GtaError, match=text):
        load_model(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vit_tiny_patch16_225", "did you mean 'vit_tiny_patch16_224'"),
        ("vit_tiny_patch16_224.nonsense", "no weights 'nonsense'; known: .*augreg"),
        ("vit_tiny_patch16_225@none", "did you mean 'vit_tiny_patch16_224'"),
        ("resnet18@none", "ResNet"),
        ("./nowhere", "no folder"),
        ("zzz", "gta models list"),
    ],
)
def test_unknown_specs(spec: str, message: str) -> None:
    with pytest.raises(GtaError, match=message):
        load_model(spec)


def test_size_not_a_multiple_of_the_patch_size() -> None:
    with pytest.raises(
        GtaError,
        match=r"image_size: 100x100 is not a multiple .* 16x16 of .*; 96x96 is",
    ):
        load_model("vit_tiny_patch16_224@none", image_size=100)


@pytest.mark.parametrize(("size", "asked"), [((64, 96), 96), ((32, 72), 48), ((32, 72), (72, 32))])
def test_position_embeddings_of_a_nonsquare_grid(
    tmp_path: Path, size: tuple[int, int], asked: Any
) -> None:
    """Grids of 4 x 9 and 6 x 6 patches differ only in the image size in the file."""
    kwargs = {**TINY, "img_size": size}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **kwargs)
    meta = {
        "architecture": "vit_tiny_patch16_224",
        "kwargs": json.dumps(TINY),
        "image_size": json.dumps(size),
    }
    save_file(model.state_dict(), tmp_path / "model.safetensors", meta)
    loaded = load_model(str(tmp_path), image_size=asked)
    assert loaded.report.resized == ("pos_embed",)
    prefix, patches = model.pos_embed.split((1, model.pos_embed.shape[1] - 1), dim=1)
    grid = patches.unflatten(1, model.patch_embed.grid_size).permute(0, 3, 1, 2)
    side = TINY["patch_size"]
    wanted = asked if isinstance(asked, tuple) else (asked, asked)
    resized = F.interpolate(
        grid, [wanted[0] // side, wanted[1] // side], mode="bicubic", antialias=True
    )
    expected = torch.cat((prefix, resized.flatten(2).transpose(1, 2)), dim=1)
    torch.testing.assert_close(loaded.model.pos_embed, expected)


def test_position_embeddings_of_an_unknown_grid(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96))
    path = tmp_path / "a.safetensors"
    save_file(model.state_dict(), path)  # without its image size
    with pytest.raises(GtaError, match="pos_embed"):
        load_model(f"vit_tiny_patch16_224@{path}")


def test_classifier_has_the_width_of_the_weights(tmp_path: Path) -> None:
    tensors = full(num_classes=3)
    spec = file_of(tmp_path, "a.safetensors", lambda p: save_file(tensors, p))
    loaded = load_model(spec)
    assert loaded.model.num_classes == 3
    assert not loaded.report.new_head
    headless = {k: v for k, v in tensors.items() if not k.startswith("head")}
    spec = file_of(tmp_path, "b.safetensors", lambda p: save_file(headless, p))
    assert load_model(spec).model.num_classes == 0


def test_revision_is_not_a_weights_file() -> None:
    with pytest.raises(GtaError, match=r"hf-hub:nobody/nothing@main could not be loaded"):
        load_model("hf-hub:nobody/nothing@main")


def test_preprocess_accepts_any_image_mode(tiny_model: Path) -> None:
    loaded = load_model(str(tiny_model))
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    view = loaded.preprocess(Image.fromarray(ramp)) * 0.5 + 0.5
    assert 0.45 < view.mean() < 0.55
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert (loaded.preprocess(clear) * 0.5 + 0.5).min() > 0.99


def dino_checkpoint() -> dict[str, Any]:
    """Return a checkpoint as main_dino.py of facebookresearch/dino saves it."""
    teacher = {f"backbone.{k}": v for k, v in full(num_classes=0).items()}
    teacher |= {"head.mlp.0.weight": torch.ones(2), "head.last_layer.weight_g": torch.ones(2)}
    return {
        "student": {f"module.{k}": torch.zeros_like(v) for k, v in teacher.items()},
        "teacher": teacher,
        "epoch": 100,
        "args": Namespace(arch="vit_tiny", lr=5e-4, crops=(0.4, 1.0), best=np.float64(0.7)),
    }


def test_dino_training_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = dino_checkpoint()
    spec = file_of(tmp_path, "a.pth", lambda p: torch.save(checkpoint, p))
    with caplog.at_level(logging.INFO):
        loaded = load_model(spec)
    expected = checkpoint["teacher"]["backbone.norm.weight"]
    assert torch.equal(loaded.model.norm.weight, expected)
    assert loaded.report.layout == "DINO"
    assert loaded.report.dropped == ("head.mlp.0.weight", "head.last_layer.weight_g")
    assert not loaded.report.unexpected
    assert "a.pth (teacher): DINO layout, 150 loaded" in caplog.text
    assert "2 left out (head.mlp.*.weight, head.last_layer.weight_g)" in caplog.text
    # The architecture's configuration has mean 0.5, which DINO did not use.
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert loaded.std == (0.229, 0.224, 0.225)
    del checkpoint["teacher"]
    spec = file_of(tmp_path, "b.pth", lambda p: torch.save(checkpoint, p))
    assert not load_model(spec).model.norm.weight.any()


def test_preferred_network_of_a_checkpoint(tmp_path: Path) -> None:
    """Averaged weights are preferred to raw ones in any order."""
    ones = {k: torch.ones_like(v) for k, v in full().items()}
    for ema, raw in (("state_dict_ema", "state_dict"), ("model_ema", "model")):
        path = tmp_path / f"{ema}.pth"
        torch.save({raw: full(), ema: ones}, path)
        assert (load_model(f"vit_tiny_patch16_224@{path}").model.cls_token == 1).all()


def test_checkpoint_of_a_compiled_model_in_ddp(tmp_path: Path) -> None:
    wrapped = {f"module._orig_mod.{k}": v for k, v in full().items()}
    spec = file_of(tmp_path, "pytorch_model.bin", lambda p: torch.save(wrapped, p))
    assert len(load_model(spec).report.loaded) == len(wrapped)


def test_torchscript_program_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-16.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(GtaError, match="TorchScript program"):
        load_model(f"vit_base_patch16_clip_quickgelu_224@{path}")


def test_layout_in_the_wrong_architecture_is_rejected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All tensors of the model are loaded, but unused ones would change the features."""
    tensors = {k: v for k, v in full(num_classes=0).items() if k != "pos_embed"}
    tensors |= {"pos_embed": torch.zeros(1, 197, 192), "mask_token": torch.zeros(1, 192)}
    tensors |= {f"blocks.{i}.ls{j}.gamma": torch.ones(192) for i in range(12) for j in (1, 2)}
    spec = file_of(tmp_path, "v2.pth", lambda p: torch.save(tensors, p))
    with pytest.raises(GtaError, match=r"read as DINOv2.* 24 tensors .*blocks\.0\.ls1\.gamma"):
        load_model(spec, partial_weights=False)
    assert load_model(spec, partial_weights=True).report.dropped == ("mask_token",)
    # Also of an unknown layout, where the blocks would see something else.
    for name in ("norm_pre.weight", "reg_token", "blocks.3.ls1.gamma", "blocks.12.norm1.weight"):
        bare = full() | {name: torch.ones(192)}
        spec = file_of(tmp_path, "bare.pth", lambda p, bare=bare: torch.save(bare, p))
        with pytest.raises(GtaError, match=rf"bare.pth has 1 tensors .*does not have \({name}\)"):
            load_model(spec)
    bare = full() | {"criterion.weight": torch.ones(192)}
    spec = file_of(tmp_path, "bare.pth", lambda p: torch.save(bare, p))
    assert load_model(spec).report.unexpected == ("criterion.weight",)
    assert "does not have (criterion.weight)" in caplog.text


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    """Their values are whole numbers, whose scales lie elsewhere."""
    name = "blocks.0.mlp.fc1.weight"
    for dtype in (torch.int8, torch.uint8, torch.float8_e4m3fn):
        tensors = full()
        tensors[name] = tensors[name].to(dtype)
        spec = file_of(tmp_path, "a.safetensors", lambda p, t=tensors: save_file(t, p))
        with pytest.raises(GtaError, match=rf"a\.safetensors: {name} is of \w+, as in a quantized"):
            load_model(spec)


@pytest.mark.parametrize("wrap", [lambda t: {"state_dict": t}, lambda t: t])
def test_mean_pooling_is_known_by_its_norm(tmp_path: Path, wrap: Any) -> None:
    """A checkpoint of timm's training with `--gp avg`, which has fc_norm in the place of norm."""
    source = timm.create_model("vit_tiny_patch16_224", global_pool="avg", num_classes=4).eval()
    spec = file_of(tmp_path, "a.pth", lambda p: torch.save(wrap(source.state_dict()), p))
    loaded = load_model(spec)
    assert loaded.mean == (0.5, 0.5, 0.5)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), source(x))


def test_fine_tuned_mae_keeps_its_pooling(tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224", global_pool="avg", num_classes=4).eval()
    checkpoint = {"model": source.state_dict(), "args": Namespace(model="vit_base_patch16")}
    spec = file_of(tmp_path, "a.pth", lambda p: torch.save(checkpoint, p))
    loaded = load_model(spec)
    # Saved as by a run.
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.write_model(loaded.model, model_metadata(loaded, ()))
    again = load_model(str(run.path))
    assert again.mean == loaded.mean == (0.485, 0.456, 0.406)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for model in (loaded.model, again.model):
            assert torch.equal(model(x), source(x))


@pytest.mark.parametrize(
    ("arch", "warned"),
    [
        ("vit_small_patch16_224", True),  # supervised weights have mean 0.5, DINO's do not
        ("vit_small_patch16_224.dino", False),
        ("vit_tiny_patch16_224", False),
    ],
)
def test_file_without_normalization(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, arch: str, warned: bool
) -> None:
    tensors = timm.create_model(arch, pretrained=False, num_classes=0).state_dict()
    save_file(tensors, tmp_path / "a.safetensors")
    loaded = load_model(f"{arch}@{tmp_path / 'a.safetensors'}")
    assert ("vit_small_patch16_224.dino@" in caplog.text) is warned
    assert (loaded.mean == (0.485, 0.456, 0.406)) is arch.endswith(".dino")


def test_a_run_s_weights_file_is_a_spec_by_itself(tiny_model: Path) -> None:
    """It names its architecture, unlike a file of another program."""
    file = tiny_model / "model.safetensors"
    alone, folder = load_model(str(file)), load_model(str(tiny_model))
    assert alone.architecture == folder.architecture
    assert alone.report.loaded == folder.report.loaded
    foreign = tiny_model / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    with pytest.raises(GtaError, match="name its architecture"):
        load_model(str(foreign))
