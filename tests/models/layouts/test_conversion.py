"""Tests of features after conversion, with state dicts made from timm models."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.eva import checkpoint_filter_fn as eva_filter
from timm.models.vision_transformer import checkpoint_filter_fn as vit_filter
from torch import Tensor, nn

from gtacli.errors import GtaError
from gtacli.models.layouts import find_layout
from gtacli.models.weights import load_weights

Tensors = dict[str, Tensor]
SMALL: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}


def build(arch: str, **kwargs: Any) -> nn.Module:
    """Create a small model with random parameters everywhere."""
    torch.manual_seed(0)
    model = timm.create_model(arch, **{**SMALL, "num_classes": 0, **kwargs})
    for name, p in model.named_parameters():
        p.data = torch.randn_like(p) * 0.1 + (p.ndim == 1 and not name.endswith("bias"))
    return model.eval()


def apart(t: Tensors, at: str, names: tuple[str, str, str]) -> None:
    """Replace {at}.attn.qkv by three layers with these names."""
    for kind in ("weight", "bias"):
        joint = t.pop(f"{at}.attn.qkv.{kind}", None)
        if joint is not None:
            for i, name in enumerate(names):
                t[f"{name}.{kind}"] = joint[48 * i : 48 * (i + 1)].clone()


def renamed(t: Tensors, *pairs: tuple[str, str]) -> Tensors:
    out = {}
    for name, value in t.items():
        for old, new in pairs:
            name = name.replace(old, new)
        out[name] = value
    return out


def hugging_face(t: Tensors) -> Tensors:
    for i in range(2):
        inner = f"encoder.layer.{i}.attention.attention"
        apart(t, f"blocks.{i}", (f"{inner}.query", f"{inner}.key", f"{inner}.value"))
    return renamed(
        t,
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("reg_token", "embeddings.register_tokens"),
        ("dist_token", "embeddings.distillation_token"),
        ("blocks", "encoder.layer"),
        ("attn.proj", "attention.output.dense"),
    )


def hf_vit(t: Tensors) -> Tensors:
    body = renamed(
        hugging_face(t),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("norm.", "layernorm."),
    )
    return {f"vit.{n}": v for n, v in body.items()}


def hf_dinov2(t: Tensors) -> Tensors:
    body = renamed(
        hugging_face(with_position(t)),
        ("ls1.gamma", "layer_scale1.lambda1"),
        ("ls2.gamma", "layer_scale2.lambda1"),
    )
    body = {re.sub("^norm", "layernorm", n): v for n, v in body.items()}
    return {**body, "embeddings.mask_token": torch.ones(1, 48)}


def with_position(t: Tensors) -> Tensors:
    """Undo the conversion of the CLS position, which timm's models with registers do not have."""
    if "reg_token" not in t:
        return t
    row = torch.randn(1, 1, 48)
    t["cls_token"] = t["cls_token"] - row
    t["pos_embed"] = torch.cat((row, t["pos_embed"]), 1)
    return t


def dinov2(t: Tensors) -> Tensors:
    t = renamed(with_position(t), ("reg_token", "register_tokens"))
    return {**t, "mask_token": torch.ones(1, 48)}


def dinov2_chunked(t: Tensors) -> Tensors:
    t = renamed(dinov2(t), ("blocks.1.", "blocks.1.1."), ("blocks.0.", "blocks.0.0."))
    body = {f"backbone.{n}": v for n, v in t.items()}
    return {**body, "dino_head.mlp.0.weight": torch.ones(3)}


def dinov2_gated(t: Tensors) -> Tensors:
    return renamed(dinov2(t), ("mlp.fc1", "mlp.w12"), ("mlp.fc2", "mlp.w3"))


def dinov3(t: Tensors) -> Tensors:
    for i in range(2):
        q, v = (t.pop(f"blocks.{i}.attn.{x}_bias", torch.zeros(48)) for x in "qv")
        # The mask disables the bias of the keys, whatever its values.
        t[f"blocks.{i}.attn.qkv.bias"] = torch.cat((q, torch.full((48,), 7.0), v))
        mask = torch.cat((torch.ones(48), torch.zeros(48), torch.ones(48)))
        t[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    t = renamed(
        t, ("reg_token", "storage_tokens"), ("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2")
    )
    if any("mlp.w1" in n for n in t):
        t = renamed(t, ("mlp.fc2", "mlp.w3"))
    t = {re.sub(r"gamma_(\d)", r"ls\1.gamma", n): v for n, v in t.items()}
    periods = torch.tensor([100.0 ** (2 * i / 8) for i in range(4)]).bfloat16()
    return {**t, "rope_embed.periods": periods, "mask_token": torch.ones(1, 48)}


def hf_dinov3(t: Tensors) -> Tensors:
    for i in range(2):
        at = f"blocks.{i}"
        q, v = t.pop(f"{at}.attn.q_bias"), t.pop(f"{at}.attn.v_bias")
        apart(t, at, tuple(f"layer.{i}.attention.{x}_proj" for x in "qkv"))  # type: ignore[arg-type]
        t |= {f"layer.{i}.attention.q_proj.bias": q, f"layer.{i}.attention.v_proj.bias": v}
    return renamed(
        t,
        ("blocks.", "layer."),
        ("attn.proj", "attention.o_proj"),
        ("mlp.fc1_g", "mlp.gate_proj"),
        ("mlp.fc1_x", "mlp.up_proj"),
        ("mlp.fc1.", "mlp.up_proj."),
        ("mlp.fc2", "mlp.down_proj"),
        ("gamma_1", "layer_scale1.lambda1"),
        ("gamma_2", "layer_scale2.lambda1"),
        ("cls_token", "embeddings.cls_token"),
        ("reg_token", "embeddings.register_tokens"),
        ("patch_embed.proj", "embeddings.patch_embeddings"),
    )


def dino(t: Tensors) -> Tensors:
    body = {f"backbone.{n}": v for n, v in t.items()}
    return {
        **body,
        "head.mlp.0.weight": torch.ones(3, 3),
        "head.last_layer.weight_g": torch.ones(3),
    }


def ibot(t: Tensors) -> Tensors:
    return {
        **dino(t),
        "backbone.masked_embed": torch.ones(1, 48),
        "head.last_layer2.weight_v": t["norm.bias"],
    }


def mae(t: Tensors) -> Tensors:
    decoder = {
        "decoder_embed.weight": torch.ones(3, 48),
        "decoder_blocks.0.norm1.weight": torch.ones(3),
        "decoder_pos_embed": torch.ones(1, 17, 3),
        "mask_token": torch.ones(1, 1, 3),
    }
    return t | decoder


def mae_probed(t: Tensors) -> Tensors:
    """Return a checkpoint of mae/main_linprobe.py: a batch norm, then the linear layer."""
    return t | {"head.0.running_mean": torch.ones(48), "head.1.weight": torch.ones(3, 48)}


def whole_training(t: Tensors) -> Tensors:
    """Return student and teacher in one state dict, as dinov2's training saves them."""
    teacher = {f"teacher.{n}": v for n, v in dinov2_chunked(t).items()}
    return {**{n.replace("teacher", "student"): -v for n, v in teacher.items()}, **teacher}


def deit3(t: Tensors) -> Tensors:
    return {re.sub(r"ls(\d)\.gamma", r"gamma_\1", n): v for n, v in t.items()}


def clip(t: Tensors) -> Tensors:
    t["cls_token"], t["pos_embed"] = t["cls_token"][0, 0], t["pos_embed"][0]
    t = renamed(
        t,
        ("patch_embed.proj", "conv1"),
        ("cls_token", "class_embedding"),
        ("pos_embed", "positional_embedding"),
        ("norm_pre", "ln_pre"),
        ("blocks", "transformer.resblocks"),
        ("norm1", "ln_1"),
        ("norm2", "ln_2"),
        ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    )
    body = {f"visual.{re.sub('^norm', 'ln_post', n)}": v for n, v in t.items()}
    return {**body, "token_embedding.weight": torch.ones(3, 3), "logit_scale": torch.ones(())}


def clip_tower(t: Tensors) -> Tensors:
    """Return the image tower alone, as other programs save it."""
    return {n.removeprefix("visual."): v for n, v in clip(t).items() if n.startswith("visual.")}


def hf_tower(t: Tensors) -> Tensors:
    t["pos_embed"] = t["pos_embed"][0]
    for i in range(2):
        inner = f"encoder.layers.{i}.self_attn"
        apart(t, f"blocks.{i}", (f"{inner}.q_proj", f"{inner}.k_proj", f"{inner}.v_proj"))
    body = renamed(
        t,
        ("blocks", "encoder.layers"),
        ("attn.proj", "self_attn.out_proj"),
        ("norm1", "layer_norm1"),
        ("norm2", "layer_norm2"),
        ("pos_embed", "embeddings.position_embedding.weight"),
        ("patch_embed.proj", "embeddings.patch_embedding"),
        ("norm_pre", "pre_layrnorm"),
    )
    return {f"vision_model.{re.sub('^norm', 'post_layernorm', n)}": v for n, v in body.items()}


def hf_clip(t: Tensors) -> Tensors:
    t["cls_token"] = t["cls_token"].flatten()
    return renamed(hf_tower(t), ("cls_token", "embeddings.class_embedding"))


def hf_siglip(t: Tensors) -> Tensors:
    pool = {n: t.pop(n) for n in list(t) if n.startswith("attn_pool.")}
    t = hf_tower(t)
    for kind in ("weight", "bias"):
        joint = torch.cat((pool.pop(f"attn_pool.q.{kind}"), pool.pop(f"attn_pool.kv.{kind}")))
        t[f"vision_model.head.attention.in_proj_{kind}"] = joint
    pool = renamed(
        pool, ("latent", "probe"), ("pool.proj", "pool.attention.out_proj"), ("norm", "layernorm")
    )
    return t | renamed(pool, ("attn_pool", "vision_model.head"))


def open_clip(t: Tensors) -> Tensors:
    body = {f"visual.trunk.{n}": v for n, v in t.items()}
    return {**body, "text.transformer.resblocks.0.ln_1.weight": torch.ones(3)}


DINOV2 = ("vit_small_patch14_dinov2", {"img_size": 56})
REG = ("vit_small_patch14_reg4_dinov2", {"img_size": (56, 84)})
GATED = ("vit_giant_patch14_dinov2", {"img_size": 56})
V3 = ("vit_small_patch16_dinov3", {})
V3_PLUS = ("vit_small_plus_patch16_dinov3", {"qkv_bias": True})
TINY = ("vit_tiny_patch16_224", {})
CLIP = ("vit_base_patch16_clip_quickgelu_224", {})
SIGLIP = ("vit_base_patch16_siglip_224", {"act_layer": "gelu_tanh"})
AVG = ("vit_tiny_patch16_224", {"global_pool": "avg"})

Inverse = Callable[[Tensors], Tensors]
CASES: list[tuple[str, tuple[str, dict[str, Any]], Inverse]] = [
    ("DINO", TINY, dino),
    ("iBOT", TINY, ibot),
    ("MAE", TINY, mae),
    ("fine-tuned MAE", AVG, dict),
    ("linear-probed MAE", TINY, mae_probed),
    ("distilled DeiT", ("deit_tiny_distilled_patch16_224", {}), dict),
    ("DeiT III", ("deit3_small_patch16_224", {}), deit3),
    ("DINOv2", DINOV2, dinov2),
    ("DINOv2", REG, dinov2),
    ("DINOv2", REG, dinov2_chunked),
    ("DINOv2", REG, whole_training),
    ("DINOv2", GATED, dinov2_gated),
    ("DINOv3", V3, dinov3),
    ("DINOv3", ("vit_small_patch16_dinov3_qkvb", {}), dinov3),
    ("DINOv3", V3_PLUS, dinov3),
    ("Hugging Face ViT", TINY, hf_vit),
    ("Hugging Face DeiT", ("deit_tiny_distilled_patch16_224", {}), hf_vit),
    ("Hugging Face DINOv2", DINOV2, hf_dinov2),
    ("Hugging Face DINOv2", REG, hf_dinov2),
    ("Hugging Face DINOv3", ("vit_small_patch16_dinov3_qkvb", {}), hf_dinov3),
    ("Hugging Face DINOv3", V3_PLUS, hf_dinov3),
    ("CLIP", CLIP, clip),
    ("CLIP", CLIP, clip_tower),
    ("Hugging Face CLIP", CLIP, hf_clip),
    ("Hugging Face SigLIP", SIGLIP, hf_siglip),
    ("open_clip with a timm tower", ("vit_base_patch16_siglip_224", {}), open_clip),
]


@pytest.mark.parametrize(("name", "of", "inverse"), CASES)
def test_conversion_preserves_features(
    name: str, of: tuple[str, dict[str, Any]], inverse: Inverse
) -> None:
    arch, kwargs = of
    source = build(arch, **kwargs)
    published = inverse({n: v.clone() for n, v in source.state_dict().items()})
    layout = find_layout(published, "model")
    assert layout is not None
    assert layout.name == name
    before = {n: v.clone() for n, v in published.items()}
    kept, _, implied = layout.convert(published)
    assert all(torch.equal(v, published[n]) for n, v in before.items())
    size = {"img_size": kwargs["img_size"]} if "img_size" in kwargs else {}
    model = timm.create_model(arch, **{**SMALL, "num_classes": 0, **size, **implied}).eval()
    report = load_weights(model, kept, "x", grid=model.patch_embed.grid_size)
    assert report.coverage == 1
    assert not report.unexpected
    images = torch.randn(2, 3, *model.patch_embed.img_size)
    with torch.no_grad():
        torch.testing.assert_close(model(images), source(images), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            model.forward_features(images), source.forward_features(images), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("of", "inverse", "oracle"),
    [
        (DINOV2, dinov2, vit_filter),
        (REG, dinov2, vit_filter),
        (GATED, dinov2_gated, vit_filter),
        (CLIP, clip, vit_filter),
        (("vit_base_patch16_siglip_224", {}), open_clip, vit_filter),
        (("vit_small_patch16_dinov3_qkvb", {}), dinov3, eva_filter),
        (V3_PLUS, dinov3, eva_filter),
    ],
)
def test_conversion_equals_timms_converters(
    of: tuple[str, dict[str, Any]], inverse: Inverse, oracle: Any
) -> None:
    """Tensors must be equal for layouts that timm converts, too."""
    arch, kwargs = of
    model = build(arch, **kwargs)
    size = model.patch_embed.img_size
    square = build(arch, **{**kwargs, "img_size": min(size)}) if size[0] != size[1] else model
    published = inverse(copy.deepcopy(dict(square.state_dict())))
    layout = find_layout(published)
    assert layout is not None
    kept, _, _ = layout.convert(published)
    expected = oracle(dict(published), square)
    assert set(kept) == set(expected)
    assert all(torch.equal(v, expected[n]) for n, v in kept.items())


def test_zero_biases_are_dropped() -> None:
    """Published files have zeros; an architecture without these biases loads them."""
    source = build("vit_small_patch16_dinov3")
    layout = find_layout(published := dinov3(dict(source.state_dict())))
    assert layout is not None
    kept, dropped, kwargs = layout.convert(published)
    assert kwargs == {"qkv_bias": False}
    assert not any("bias" in n for n in kept if "qkv" in n)
    assert "blocks.0.attn.qkv.bias_mask" in dropped


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rope_embed.periods", torch.ones(4), "base 100"),
        ("blocks.0.attn.qkv.bias_mask", torch.ones(144), "bias of the keys"),
    ],
)
def test_dinov3_that_timm_cannot_represent(name: str, value: Tensor, message: str) -> None:
    published = dinov3(dict(build("vit_small_patch16_dinov3").state_dict()))
    layout = find_layout(published)
    assert layout is not None
    with pytest.raises(GtaError, match=message):
        layout.convert({**published, name: value})
