"""Layouts of ViT, ViTMAE, DeiT, DINOv2 (also with registers) and DINOv3 of Hugging Face.

Files of transformers keep the names of version 4 (`encoder.layer.0.attention.attention.query`); a
state dict of a model in memory has those of version 5 (`layers.0.attention.q_proj`). Both are read.

The ViT and DeiT of transformers have LayerNorms with eps 1e-12; the original networks and timm's
have 1e-6. Features differ by about 1e-6 of their size.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from gtacli.models.layouts.base import Layout, Tensors, join_qkv, registers_without_position
from gtacli.models.layouts.meta import separate_bias, with_qkv_bias

# Names inside a block, the same in all encoders of the library.
BLOCK_NAMES = (
    (r"^(encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.(attention\.attention|attention|self_attn)\.(q|k|v)(_proj|uery|ey|alue)\.", r".attn.\2."),
    (r"\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
)
_LAYER_SCALE = (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma")
_NAMES = (
    (r"^(vit|deit|dinov2|dinov2_with_registers|dinov3_vit)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(classifier|cls_classifier)\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
    *BLOCK_NAMES,
)
_OLD_OR_NEW = r"(attention\.query|attention\.q_proj)\.weight$"


def _gated(t: Tensors) -> Tensors:
    """Join the two halves of DINOv2's gated MLP into one layer."""
    out = {n: v for n, v in t.items() if not re.search(r"\.mlp\.(gate|up)_proj\.", n)}
    for name in t:
        if ".mlp.gate_proj." in name:
            halves = t[name], t[name.replace("gate_proj", "up_proj")]
            out[name.replace("gate_proj", "fc1")] = torch.cat(halves)
    return out


def _up_and_down(t: Tensors) -> Tensors:
    """Rename DINOv3's MLP, gated (fc1_g, fc1_x) or not (fc1)."""
    up = "fc1_x" if any(".mlp.gate_proj." in n for n in t) else "fc1"
    names = {"gate_proj": "fc1_g", "up_proj": up, "down_proj": "fc2"}
    return {re.sub("(gate|up|down)_proj", lambda m: names[m[0]], n): v for n, v in t.items()}


VIT = Layout(
    "Hugging Face ViT",
    signs=(r"(^|\.)embeddings\.position_embeddings$", r"layernorm_before\.weight$", _OLD_OR_NEW),
    without=r"distillation_token|^decoder\.|relative_position|lambda_1",
    drop=r"(^|\.)pooler\.|mask_token$",
    rename=_NAMES,
    steps=(join_qkv,),
)
VIT_MAE = replace(
    VIT,
    name="Hugging Face ViTMAE",
    signs=(*VIT.signs, r"^decoder\.decoder_embed\."),
    without=r"distillation_token",
    drop=r"^decoder\.",
    imagenet=True,
)
DEIT = replace(
    VIT,
    name="Hugging Face DeiT",
    signs=(*VIT.signs, r"embeddings\.distillation_token$"),
    without=r"^decoder\.",
    imagenet=True,
)
DINOV2 = Layout(
    "Hugging Face DINOv2",
    signs=(r"embeddings\.position_embeddings$", r"layer_scale1\.lambda1$", _OLD_OR_NEW),
    # Its classifier reads the CLS token and the mean patch; timm has no such head.
    drop=r"embeddings\.mask_token$|^classifier\.",
    rename=(
        *_NAMES,
        _LAYER_SCALE,
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
    ),
    steps=(join_qkv, _gated, registers_without_position),
    imagenet=True,
)
DINOV3 = Layout(
    "Hugging Face DINOv3",
    signs=(r"embeddings\.register_tokens$", r"layer_scale1\.lambda1$", r"\.up_proj\.weight$"),
    without=r"position_embeddings",
    drop=r"embeddings\.mask_token$",
    rename=(*_NAMES, (r"\.layer_scale(\d)\.lambda1$", r".gamma_\1")),
    steps=(join_qkv, separate_bias, _up_and_down),
    kwargs=with_qkv_bias,
)

HUGGING_FACE_LAYOUTS = (VIT, VIT_MAE, DEIT, DINOV2, DINOV3)
