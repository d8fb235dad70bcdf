"""Layouts of the official checkpoints of DINO, iBOT, MAE, DeiT, DINOv2 and DINOv3.

The names are those of facebookresearch/{dino, mae, deit, dinov2, dinov3} and bytedance/ibot. Plain
backbones of DINO, iBOT and DeiT (without the objective's head or a distillation token) have exactly
timm's names: they need no conversion, and they cannot be told apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from gtacli.errors import GtaError
from gtacli.models.layouts.base import Layout, Tensors, registers_without_position

# Training states hold several networks; the papers evaluate the teacher.
_ROOTS = ("teacher.backbone.", "backbone.", "")
_BLOCK = r"(^|\.)blocks\.(\d+\.)?\d+\.norm1\.weight$"
_FOREIGN = (
    r"q_bias|rel_pos|rope|norm_pre|reg_token|ls1|gamma_1|(attn|mlp)\.norm|patch_embed\.backbone"
)


def _is_sin_cos(t: Mapping[str, Tensor], first: Literal["columns", "rows"] = "columns") -> bool:
    """Return whether position embeddings are fixed ones (CLS: 0, patches: sin, cos).

    Args:
        first: what the first half of the channels encodes: columns in MAE, rows in MoCo-v3. From
            one patch to its right neighbor the rows' half stays the same, the columns' half does
            not.
    """
    position = t["pos_embed"].float()
    if position.ndim != 3 or position.shape[1] < 3 or position.shape[-1] % 4:
        return False
    if position[0, 0].any():
        return False
    half = position.shape[-1] // 2
    halves = position[0, 1:].split(half, dim=1)
    fixed = all(
        torch.allclose(sin**2 + cos**2, torch.ones(()), atol=1e-2)
        for sin, cos in (part.chunk(2, dim=1) for part in halves)
    )
    constant = torch.allclose(halves[0][0], halves[0][1], atol=1e-2)
    return fixed and constant is (first == "rows")


def separate_bias(t: Tensors) -> Tensors:
    """Convert DINOv3's masked qkv.bias to timm's q_bias and v_bias; drop it if it is all zeros.

    The mask disables the bias of k. Published distilled models have zeros everywhere.
    """
    out: Tensors = {}
    biases: Tensors = {}
    for name, value in t.items():
        at, found, _ = name.rpartition("qkv.bias")
        if not found:
            out[name] = value
        elif not name.endswith("bias_mask"):
            mask = t.get(f"{name}_mask")
            q, k, v = (value if mask is None else value * mask.to(value.dtype)).chunk(3)
            if k.any():
                raise GtaError(f"{name} has a bias of the keys, which timm's DINOv3 does not have")
            biases |= {f"{at}q_bias": q, f"{at}v_bias": v}
    return out | biases if any(b.any() for b in biases.values()) else out


def _check_periods(t: Tensors) -> Tensors:
    """Drop the fixed periods of the rotary embedding after checking that they are timm's."""
    out = dict(t)
    periods = out.pop("rope_embed.periods", None)
    if periods is not None:
        # RopePositionEmbedding with base 100; some files hold it in bfloat16.
        exponent = torch.arange(len(periods), dtype=torch.float32) / len(periods)
        if not torch.allclose(periods.float(), 100.0**exponent, rtol=1e-2):
            raise GtaError(
                "rope_embed.periods are not those of base 100, as timm's DINOv3 has them"
            )
    return out


def with_qkv_bias(t: Tensors) -> dict[str, Any]:
    """Return the architecture's argument `qkv_bias`."""
    return {"qkv_bias": any(n.endswith("q_bias") for n in t)}


def _unchunk(t: Tensors) -> Tensors:
    """Rename blocks saved in chunks (blocks.CHUNK.BLOCK.…) to their block number."""
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", n): v for n, v in t.items()}


def _is_moco(t: Mapping[str, Tensor]) -> bool:
    """Return whether it is MoCo-v3: its two encoders' name, or the fixed positions by rows."""
    root = "base_encoder."
    return f"{root}pos_embed" in t or _is_sin_cos(t, "rows")


def _heads_of_moco(t: Tensors) -> dict[str, Any]:
    """Return the heads of MoCo-v3's ViT-S, which has 12 of them in place of 6."""
    width = t["patch_embed.proj.weight"].shape[0]
    return {"num_heads": 12} if width == MOCO_SMALL else {}


MOCO_SMALL = 384
"""Channels of MoCo-v3's ViT-S."""
MAE = Layout(
    "MAE",
    signs=(r"^decoder_embed\.weight$", r"^decoder_blocks\.0\.", _BLOCK),
    drop=r"^decoder_|^mask_token$",
    imagenet=True,
)
MAE_ENCODER = Layout(
    "MAE encoder",
    signs=(r"^pos_embed$", r"^cls_token$", r"^norm\.weight$", _BLOCK),
    without=rf"^head\.|^decoder_|mask_token|{_FOREIGN}",
    proof=_is_sin_cos,
    imagenet=True,
)
MOCO_V3 = Layout(
    "MoCo-v3",
    signs=(r"^(base_encoder\.)?pos_embed$", r"^(base_encoder\.)?cls_token$", _BLOCK),
    without=rf"decoder_|mask_token|head\.mlp|{_FOREIGN}",
    proof=_is_moco,
    roots=("base_encoder.", ""),
    # The projector in the place of the classifier; a probed network has a classifier there.
    drop=r"^head\.\d",
    kwargs=_heads_of_moco,
    usual_imagenet=True,
)
MAE_PROBED = replace(
    MAE_ENCODER,
    name="linear-probed MAE",
    signs=(r"^head\.0\.running_mean$", _BLOCK),
    without=_FOREIGN,
    proof=None,
    # Its head is a batch norm and a linear layer; timm has no such head.
    drop=r"^head\.",
)
MAE_FINETUNED = Layout(
    "fine-tuned MAE",
    signs=(r"^fc_norm\.weight$", r"^pos_embed$", r"^cls_token$", r"attn\.qkv\.bias$", _BLOCK),
    without=rf"^norm\.|dist_token|{_FOREIGN}",
    parts=("model",),
    kwargs=lambda t: {"global_pool": "avg"},
    imagenet=True,
)
DEIT_DISTILLED = Layout(
    "distilled DeiT", signs=(r"^dist_token$", _BLOCK), without=_FOREIGN, imagenet=True
)
DEIT3 = Layout(
    "DeiT III",
    signs=(r"blocks\.0\.gamma_1$", r"attn\.qkv\.bias$", r"^pos_embed$", r"^cls_token$"),
    without=r"q_bias|rel_pos|rope|norm_pre|reg_token|mask|storage|^backbone",
    parts=("model",),
    rename=((r"\.gamma_(\d)$", r".ls\1.gamma"),),
    imagenet=True,
)
DINO = Layout(
    "DINO",
    signs=(r"^backbone\.cls_token$", r"^head\.(mlp|last_layer)\b", _BLOCK),
    without=r"^head\.(mlp2|last_layer2)\b|mask|ls1|storage|register",
    roots=_ROOTS,
    imagenet=True,
)
IBOT = Layout(
    "iBOT",
    signs=(r"masked_embed$|^head\.(mlp2|last_layer2)\b", r"(^|\.)cls_token$", _BLOCK),
    roots=_ROOTS,
    drop=r"^masked_embed$|^head\.",
    rename=((r"\.gamma_(\d)$", r".ls\1.gamma"),),
    imagenet=True,
)
DINOV2 = Layout(
    "DINOv2",
    signs=(r"(^|\.)mask_token$", r"ls1\.gamma$", r"(^|\.)pos_embed$", _BLOCK),
    without=r"^decoder_|q_bias|rope|storage_tokens",
    roots=_ROOTS,
    drop=r"^mask_token$|^(dino|ibot)_head",
    rename=(
        (r"^register_tokens$", "reg_token"),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
    steps=(_unchunk, registers_without_position),
    imagenet=True,
)
DINOV3 = Layout(
    "DINOv3",
    # Satellite models have another normalization, so the architecture's tag determines it.
    signs=(r"(^|\.)storage_tokens$", r"(^|\.)rope_embed\.periods$", _BLOCK),
    roots=_ROOTS,
    # local_cls_norm is used for the local crops of training only.
    drop=r"^mask_token$|^local_cls_norm\.|^(dino|ibot)_head",
    constants=r"\.bias_mask$|^rope_embed\.periods$",
    rename=(
        (r"^storage_tokens$", "reg_token"),
        (r"\.ls(\d)\.gamma$", r".gamma_\1"),
        (r"\.mlp\.w1\.", ".mlp.fc1_g."),
        (r"\.mlp\.w2\.", ".mlp.fc1_x."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
    steps=(_check_periods, separate_bias),
    kwargs=with_qkv_bias,
)
META_LAYOUTS = (
    DINOV3,
    DINOV2,
    IBOT,
    DINO,
    MAE,
    MAE_PROBED,
    MAE_FINETUNED,
    MAE_ENCODER,
    MOCO_V3,
    DEIT_DISTILLED,
    DEIT3,
)
