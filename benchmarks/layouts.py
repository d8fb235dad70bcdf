"""Check that published layouts load correctly: compare with the original code.

    python benchmarks/layouts.py --repos DIR [--only NAME]

DIR holds checkouts of facebookresearch/{dino, mae, deit, dinov2, dinov3}, bytedance/ibot and
openai/CLIP under their own names; transformers and open_clip_torch are imported where installed.
Each network gets random weights (also in norms and LayerScale), is saved in its published form and
loaded by `load_model("ARCH@FILE")`; both get the same random images. Prints one JSON line per
layout: the largest absolute difference of the final tokens (or of the pooled feature if the case
says so) in fp32, and the root mean square of the features.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from gtacli import load_model
from gtacli.models.layouts import find_layout
from gtacli.models.weights import load_weights

Case = Callable[[Path, Path], Iterator[dict[str, Any]]]
CASES: dict[str, Case] = {}


def case(f: Case) -> Case:
    """Register a function as a case."""
    CASES[f.__name__] = f
    return f


@contextlib.contextmanager
def imports_from(folder: Path) -> Iterator[None]:
    """Make a checkout importable, and unload its modules afterwards (several have a `utils`)."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if origin.startswith(str(folder)):
                del sys.modules[name]


def randomize(model: nn.Module, keep: tuple[str, ...] = ()) -> nn.Module:
    """Set all parameters to random values, so that none is 0 or 1 by construction."""
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if name.endswith(keep):
            continue
        scale = 0.5 if "token" in name or "pos" in name else 0.04
        values = scale * torch.randn(p.shape, generator=generator)
        one = p.ndim == 1 and not name.endswith("bias")
        p.data = (1 + 5 * values if one else values).to(p.dtype)
    return model.eval()


def smooth_positions(vit: Any, side: int) -> None:
    """Set smooth position embeddings: some originals resize them without antialiasing."""
    grid = build_sincos2d_pos_embed((side, side), vit.embed_dim).view(1, side * side, -1)
    vit.pos_embed.data[:, 1:] = 0.5 * grid


@torch.no_grad()
def compare(
    name: str,
    original: Callable[[Tensor], Tensor],
    spec: str,
    size: int | tuple[int, int] | None = None,
    ours: Callable[[nn.Module, Tensor], Tensor] = lambda m, x: m.forward_features(x),
    **extra: Any,
) -> dict[str, Any]:
    """Compare an original model with the loaded one on random images."""
    loaded = load_model(spec, image_size=size)
    images = torch.randn(2, 3, *loaded.image_size, generator=torch.Generator().manual_seed(1))
    theirs, mine = original(images), ours(loaded.model, images)
    assert theirs.shape == mine.shape, (theirs.shape, mine.shape)
    return {
        "layout": loaded.report.layout,
        "case": name,
        "architecture": loaded.architecture,
        "image_size": list(loaded.image_size),
        "max_abs_difference": float((theirs - mine).abs().max()),
        "rms": round(float(theirs.square().mean().sqrt()), 3),
        "mean": [round(m, 3) for m in loaded.mean],
        "report": str(loaded.report),
        **extra,
    }


def final_tokens(vit: Any) -> Callable[[Tensor], Tensor]:
    """Return a function that computes the final tokens of DINO or iBOT."""

    def run(x: Tensor) -> Tensor:
        x = vit.prepare_tokens(x)
        for block in vit.blocks:
            x = block(x)
        return vit.norm(x)

    return run


def dinov2_tokens(vit: Any) -> Callable[[Tensor], Tensor]:
    """Return a function that computes the final tokens of DINOv2 or DINOv3."""
    return lambda x: vit.norm(vit.forward_features(x)["x_prenorm"])


@case
def dino(repos: Path, tmp: Path) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of DINO weights."""
    with imports_from(repos / "dino"):
        vits, utils = map(importlib.import_module, ("vision_transformer", "utils"))
        student, teacher = vits.vit_small(), vits.vit_small()
        heads = vits.DINOHead(384, 128), vits.DINOHead(384, 128)
        wrapped = (
            utils.MultiCropWrapper(student, heads[0]),
            utils.MultiCropWrapper(teacher, heads[1]),
        )
        randomize(wrapped[1])
        state = {
            "student": {f"module.{k}": v for k, v in wrapped[0].state_dict().items()},
            "teacher": wrapped[1].state_dict(),
            "epoch": 3,
            "args": Namespace(arch="vit_small", patch_size=16, lr=5e-4),
        }
        torch.save(state, tmp / "full.pth")
        torch.save(teacher.state_dict(), tmp / "backbone.pth")
        arch, both = "vit_small_patch16_224", final_tokens(teacher)
        yield compare("teacher of a full checkpoint", both, f"{arch}@{tmp / 'full.pth'}")
        yield compare("backbone", both, f"{arch}.dino@{tmp / 'backbone.pth'}")
        smooth_positions(teacher, 14)
        torch.save(state, tmp / "full.pth")
        spec = f"{arch}@{tmp / 'full.pth'}"
        yield compare("grid 8 x 12, smooth positions", both, spec, (128, 192))


@case
def ibot(repos: Path, tmp: Path) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of iBOT weights."""
    with imports_from(repos / "ibot"), old_timm():
        vits = importlib.import_module("models.vision_transformer")
        head = importlib.import_module("models.head").iBOTHead(384, 128, patch_out_dim=128)
        vit = vits.vit_small(masked_im_modeling=True, return_all_tokens=True)
        randomize(vit)
        state = {f"backbone.{k}": v for k, v in vit.state_dict().items()}
        state |= {f"head.{k}": v for k, v in head.state_dict().items()}
        args = Namespace(arch="vit_small")
        torch.save({"teacher": state, "student": {}, "args": args}, tmp / "ibot.pth")
        yield compare(
            "full checkpoint", final_tokens(vit), f"vit_small_patch16_224@{tmp / 'ibot.pth'}"
        )


@case
def mae(repos: Path, tmp: Path) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of MAE weights."""
    with imports_from(repos / "mae"), old_timm():
        import numpy as np

        np.float = float  # its position embeddings use an alias that numpy has removed
        vits = map(importlib.import_module, ("models_mae", "models_vit"))
        models_mae, models_vit = vits
        full = models_mae.mae_vit_base_patch16()
        randomize(full, keep=("pos_embed",))
        args = Namespace(model="mae_vit_base_patch16", blr=1.5e-4)
        torch.save({"model": full.state_dict(), "epoch": 1, "args": args}, tmp / "mae.pth")
        encoder = {k: v for k, v in full.state_dict().items() if "decoder" not in k}
        encoder.pop("mask_token")
        torch.save({"model": encoder}, tmp / "encoder.pth")

        def masked_none(x: Tensor) -> Tensor:
            latent, _, order = full.forward_encoder(x, mask_ratio=0)
            patches = latent[:, 1:].gather(1, order[..., None].expand(-1, -1, latent.shape[-1]))
            return torch.cat((latent[:, :1], patches), 1)

        arch = "vit_base_patch16_224"
        yield compare("pre-trained, with decoder", masked_none, f"{arch}@{tmp / 'mae.pth'}")
        yield compare("published encoder", masked_none, f"{arch}@{tmp / 'encoder.pth'}")
        tuned = models_vit.vit_base_patch16(global_pool=True, num_classes=10)
        randomize(tuned)
        torch.save({"model": tuned.state_dict(), "args": args}, tmp / "tuned.pth")
        yield compare(
            "fine-tuned, global pool: logits",
            lambda x: tuned.head(tuned.forward_features(x)),
            f"{arch}@{tmp / 'tuned.pth'}",
            ours=lambda m, x: m(x),
        )


@contextlib.contextmanager
def old_timm() -> Iterator[None]:
    """Patch timm for MAE, DeiT and iBOT: Block accepts qk_scale, model names can be reused."""
    module = importlib.import_module("timm.models.vision_transformer")
    registry = importlib.import_module("timm.models.registry")
    block, init, register = module.Block, module.VisionTransformer.__init__, registry.register_model
    registry.register_model = lambda f: f  # otherwise they replace timm's own models
    module.Block = lambda *a, qk_scale=None, **k: block(*a, **k)

    def without_names(self: Any, *a: Any, **k: Any) -> None:
        for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            k.pop(name, None)
        init(self, *a, **k)

    module.VisionTransformer.__init__ = without_names
    try:
        yield
    finally:
        module.Block, module.VisionTransformer.__init__ = block, init
        registry.register_model = register


@case
def deit(repos: Path, tmp: Path) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of DeiT weights."""
    with imports_from(repos / "deit"), old_timm():
        models = importlib.import_module("models")
        distilled = randomize(models.deit_tiny_distilled_patch16_224())
        plain = randomize(models.deit_tiny_patch16_224())
        args = Namespace(model="deit_tiny_distilled_patch16_224")
        torch.save({"model": distilled.state_dict(), "args": args}, tmp / "distilled.pth")
        torch.save({"model": plain.state_dict()}, tmp / "plain.pth")

        def both(x: Tensor) -> Tensor:
            return torch.stack(distilled.forward_features(x), 1)

        yield compare(
            "distilled: CLS and distillation token",
            both,
            f"deit_tiny_distilled_patch16_224@{tmp / 'distilled.pth'}",
            ours=lambda m, x: m.forward_features(x)[:, :2],
        )
        yield compare(
            "distilled: logits",
            distilled,
            f"deit_tiny_distilled_patch16_224@{tmp / 'distilled.pth'}",
            ours=lambda m, x: m(x),
        )
        spec = f"deit_tiny_patch16_224@{tmp / 'plain.pth'}"
        yield compare("plain: logits", plain, spec, ours=lambda m, x: m(x))
        third = randomize(importlib.import_module("models_v2").deit_small_patch16_LS())
        torch.save({"model": third.state_dict()}, tmp / "third.pth")
        spec = f"deit3_small_patch16_224@{tmp / 'third.pth'}"
        yield compare("DeiT III: logits", third, spec, ours=lambda m, x: m(x))


@case
def dinov2(repos: Path, tmp: Path) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of DINOv2 weights."""
    with imports_from(repos / "dinov2"):
        backbones = importlib.import_module("dinov2.hub.backbones")
        plain = randomize(backbones.dinov2_vits14(pretrained=False))
        torch.save(plain.state_dict(), tmp / "plain.pth")
        arch = "vit_small_patch14_dinov2"
        yield compare("published", dinov2_tokens(plain), f"{arch}@{tmp / 'plain.pth'}")
        smooth_positions(plain, 37)
        torch.save(plain.state_dict(), tmp / "plain.pth")
        spec = f"{arch}@{tmp / 'plain.pth'}"
        yield compare("224 px, smooth positions", dinov2_tokens(plain), spec, 224)
        chunked = randomize(backbones.dinov2_vits14(pretrained=False, block_chunks=4))
        state = {f"backbone.{k}": v for k, v in chunked.state_dict().items()}
        state["dino_head.mlp.0.weight"] = state["ibot_head.mlp.0.weight"] = torch.zeros(4, 4)
        torch.save({"teacher": state}, tmp / "teacher.pth")
        yield compare(
            "chunked teacher of a training",
            dinov2_tokens(chunked),
            f"{arch}@{tmp / 'teacher.pth'}",
        )
        arch = "vit_small_patch14_reg4_dinov2"
        registers = randomize(backbones.dinov2_vits14_reg(pretrained=False))
        torch.save(registers.state_dict(), tmp / "reg.pth")
        for size in (518, 224, (224, 336)):
            what = f"registers, {size}"
            spec = f"{arch}@{tmp / 'reg.pth'}"
            yield compare(what, dinov2_tokens(registers), spec, size)
        vits = importlib.import_module("dinov2.models.vision_transformer")
        gated = vits.DinoVisionTransformer(
            img_size=56,
            patch_size=14,
            embed_dim=96,
            depth=2,
            num_heads=3,
            init_values=1.0,
            ffn_layer="swiglufused",
            block_chunks=0,
        )
        small = {"embed_dim": 96, "depth": 2, "num_heads": 3, "img_size": 56}
        yield small_compare(
            "SwiGLU, small", randomize(gated), "vit_giant_patch14_dinov2", small, dinov2_tokens
        )


@torch.no_grad()
def small_compare(
    name: str, original: nn.Module, arch: str, kwargs: dict[str, Any], run: Any
) -> dict[str, Any]:
    """Compare a small variant of an architecture that is too large, using the conversion alone."""
    layout = find_layout(original.state_dict())
    assert layout is not None
    converted = layout.convert(original.state_dict())
    model = timm.create_model(arch, **{"num_classes": 0, **kwargs, **converted.kwargs}).eval()
    report = load_weights(model, converted.tensors, name)
    assert not report.missing
    assert not report.unexpected
    images = torch.randn(2, 3, *model.patch_embed.img_size)
    theirs, mine = run(original)(images), model.forward_features(images)
    return {
        "layout": layout.name,
        "case": name,
        "architecture": f"{arch}, small",
        "max_abs_difference": float((theirs - mine).abs().max()),
        "rms": round(float(theirs.square().mean().sqrt()), 3),
    }


@case
def dinov3(repos: Path, tmp: Path) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of DINOv3 weights."""
    with imports_from(repos / "dinov3"):
        backbones = importlib.import_module("dinov3.hub.backbones")
        for what, size in (("", None), (", grid 10 x 14", (160, 224))):
            for bias in (False, True):
                # In the published weights the biases of q and v are zero, too.
                model = backbones.dinov3_vits16(pretrained=False)
                randomize(model)
                for block in model.blocks:
                    block.attn.qkv.bias.data *= float(bias)
                torch.save(model.state_dict(), tmp / "v3.pth")
                name = f"{'with biases' if bias else 'published'}{what}"
                spec = f"vit_small_patch16_dinov3@{tmp / 'v3.pth'}"
                yield compare(name, dinov2_tokens(model), spec, size)
        gated = randomize(backbones.dinov3_vits16plus(pretrained=False))
        torch.save(gated.state_dict(), tmp / "plus.pth")
        spec = f"vit_small_plus_patch16_dinov3@{tmp / 'plus.pth'}"
        yield compare("SwiGLU (S+)", dinov2_tokens(gated), spec)


@case
def clip(repos: Path, tmp: Path) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of OpenAI CLIP weights."""
    with imports_from(repos / "CLIP"):
        model = importlib.import_module("clip.model").CLIP(
            *(512, 224, 12, 768, 16), *(77, 100, 64, 1, 1)
        )
        randomize(model)
        torch.save(model.state_dict(), tmp / "clip.pth")
        spec = f"vit_base_patch16_clip_quickgelu_224@{tmp / 'clip.pth'}"
        yield compare("OpenAI: embedding", model.encode_image, spec, ours=lambda m, x: m(x))
        spec = f"vit_base_patch16_clip_224@{tmp / 'clip.pth'}"
        yield compare("GELU instead: wrong", model.encode_image, spec, ours=lambda m, x: m(x))


@case
def open_clip(repos: Path, tmp: Path) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of OpenCLIP weights."""
    library = importlib.import_module("open_clip")
    for name, arch in (
        ("ViT-B-32", "vit_base_patch32_clip_224"),
        ("ViT-B-16-SigLIP", "vit_base_patch16_siglip_224"),
    ):
        model = randomize(library.create_model(name, load_weights=False))
        torch.save({"state_dict": model.state_dict()}, tmp / "open.pth")
        yield compare(
            name, model.encode_image, f"{arch}@{tmp / 'open.pth'}", ours=lambda m, x: m(x)
        )


@case
def hugging_face(repos: Path, tmp: Path) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of Hugging Face weights."""
    hf = importlib.import_module("transformers")
    names = ("hidden_size", "num_attention_heads", "intermediate_size")
    tiny, small, wide = (
        {**dict(zip(names, v, strict=True)), "num_hidden_layers": 12, "patch_size": 16}
        for v in ((192, 3, 768), (384, 6, 1536), (768, 12, 3072))
    )
    v2 = {**small, "image_size": 518, "patch_size": 14}
    exact = hf.ViTConfig(**small, layer_norm_eps=1e-6)
    with_registers = hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**v2))
    v3 = hf.DINOv3ViTConfig(**small, num_register_tokens=4)
    s16, deit, reg = (
        "vit_small_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_small_patch14_reg4_dinov2",
    )
    rows: list[tuple[str, Any, str, int | tuple[int, int] | None]] = [
        ("ViT, eps 1e-12", hf.ViTModel(hf.ViTConfig(**small)), s16, None),
        ("ViT, eps set to 1e-6", hf.ViTModel(exact), s16, None),
        ("DeiT, eps 1e-12", hf.DeiTModel(hf.DeiTConfig(**tiny)), deit, None),
        ("DINOv2", hf.Dinov2Model(hf.Dinov2Config(**v2)), "vit_small_patch14_dinov2", None),
        ("DINOv2 with registers", with_registers, reg, None),
        ("DINOv2 with registers, grid 16 x 24", with_registers, reg, (224, 336)),
        ("DINOv3", hf.DINOv3ViTModel(v3), "vit_small_patch16_dinov3", (160, 224)),
    ]
    for name, model, arch, size in rows:
        randomize(model).save_pretrained(tmp / "hf")
        run = partial(_last_hidden, model)
        file = tmp / "hf" / "model.safetensors"
        yield compare(name, run, f"{arch}@{file}", size)
        torch.save(model.state_dict(), tmp / "pytorch_model.bin")
        again = compare(name, run, f"{arch}@{tmp / 'pytorch_model.bin'}", size)
        yield {**again, "case": f"{name}; names of version 5, .bin"}
    wide["image_size"] = 224
    tower = randomize(hf.SiglipVisionModel(hf.SiglipVisionConfig(**wide)))
    tower.save_pretrained(tmp / "siglip")
    yield compare(
        "SigLIP: pooled",
        lambda x: tower(x).pooler_output,
        f"vit_base_patch16_siglip_224@{tmp / 'siglip' / 'model.safetensors'}",
        ours=lambda m, x: m(x),
    )
    eye = randomize(hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**wide)))
    eye.save_pretrained(tmp / "clip")
    yield compare(
        "CLIP: embedding",
        lambda x: eye(x).image_embeds,
        f"vit_base_patch16_clip_quickgelu_224@{tmp / 'clip' / 'model.safetensors'}",
        ours=lambda m, x: m(x),
    )


def _last_hidden(model: Any, x: Tensor) -> Tensor:
    name = type(model).__name__
    more = {} if "DINOv3" in name or "Dinov2" in name else {"interpolate_pos_encoding": True}
    return model(x, **more).last_hidden_state


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--repos", type=Path, required=True, help="folder of the checkouts")
    p.add_argument("--only", choices=CASES)
    args = p.parse_args()
    warnings.simplefilter("ignore")
    for name, run in CASES.items():
        if args.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                for row in run(args.repos.resolve(), Path(folder)):
                    print(json.dumps({"benchmark": "layouts", **row}), flush=True)


if __name__ == "__main__":
    main()
