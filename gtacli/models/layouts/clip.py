"""Image towers of CLIP and SigLIP in the layouts of OpenAI, open_clip and Hugging Face.

The text tower is left out. The projection to the joint embedding becomes the classifier, as in
timm's own CLIP weights.
"""

from __future__ import annotations

import torch

from gtacli.models.layouts.base import Layout, Tensors, join_qkv
from gtacli.models.layouts.huggingface import BLOCK_NAMES

_CAUTION = (
    "the file does not say whether its network has GELU or QuickGELU; OpenAI's, DFN's and the "
    "first MetaCLIP models have QuickGELU: use an architecture named …_clip_quickgelu_…"
)
_JOINT = r"^(text|logit_|visual_projection\.bias|ln_final|token_embedding|positional_embedding)"


def _shapes(t: Tensors) -> Tensors:
    """Reshape CLIP's token (C) and positions (N x C), and transpose its projection."""
    out = dict(t)
    if "cls_token" in out:
        out["cls_token"] = out["cls_token"].reshape(1, 1, -1)
    out["pos_embed"] = out["pos_embed"].reshape(1, *out["pos_embed"].shape[-2:])
    if "proj" in out:
        out["head.weight"] = out.pop("proj").T
    return out


def _bare_head(t: Tensors) -> Tensors:
    """Add the bias of timm's classifier, which the projection does not have."""
    if "head.weight" in t and "head.bias" not in t:
        return {**t, "head.bias": torch.zeros(len(t["head.weight"]))}
    return t


def _pool(t: Tensors) -> Tensors:
    """Split SigLIP's attention pooling into q and kv, as timm has them."""
    out = dict(t)
    for kind in ("weight", "bias"):
        joint = out.pop(f"attn_pool.in_proj_{kind}", None)
        if joint is not None:
            q, k, v = joint.chunk(3)
            out[f"attn_pool.q.{kind}"] = q
            out[f"attn_pool.kv.{kind}"] = torch.cat((k, v))
    return out


CLIP = Layout(
    "CLIP",
    signs=(
        r"^(visual\.)?class_embedding$",
        r"^(visual\.)?transformer\.resblocks\.0\.ln_1\.weight$",
    ),
    roots=("visual.", ""),
    rename=(
        (r"^conv1\.", "patch_embed.proj."),
        (r"^class_embedding$", "cls_token"),
        (r"^positional_embedding$", "pos_embed"),
        (r"^ln_pre\.", "norm_pre."),
        (r"^ln_post\.", "norm."),
        (r"^transformer\.resblocks\.", "blocks."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"\.attn\.in_proj_", ".attn.qkv."),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    ),
    steps=(_shapes, _bare_head),
    caution=_CAUTION,
)
OPEN_CLIP = Layout(
    "open_clip with a timm tower",
    signs=(r"^visual\.trunk\.blocks\.0\.norm1\.weight$",),
    roots=("visual.",),
    drop=r"^head\.(?!proj\.)",
    rename=((r"^trunk\.", ""), (r"^head\.proj\.", "head.")),
    steps=(_bare_head,),
)
_HUGGING_FACE = (
    (r"^vision_model\.", ""),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^visual_projection\.", "head."),
    *BLOCK_NAMES,
)
HUGGING_FACE_CLIP = Layout(
    "Hugging Face CLIP",
    signs=(r"(^|\.)embeddings\.class_embedding$", r"(^|\.)pre_layrnorm\.weight$"),
    drop=rf"{_JOINT}|position_ids$",
    rename=_HUGGING_FACE,
    steps=(_shapes, join_qkv, _bare_head),
    caution=_CAUTION,
)
HUGGING_FACE_SIGLIP = Layout(
    "Hugging Face SigLIP",
    signs=(r"(^|\.)head\.probe$", r"(^|\.)embeddings\.position_embedding\.weight$"),
    drop=rf"{_JOINT}|position_ids$",
    rename=(
        *_HUGGING_FACE,
        (r"^head\.probe$", "attn_pool.latent"),
        (r"^head\.attention\.in_proj_", "attn_pool.in_proj_"),
        (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
        (r"^head\.layernorm\.", "attn_pool.norm."),
        (r"^head\.mlp\.", "attn_pool.mlp."),
    ),
    steps=(_shapes, join_qkv, _pool),
    # As in the original; timm's architectures of the first generation have the exact GELU.
    kwargs=lambda t: {"act_layer": "gelu_tanh"},
)

CLIP_LAYOUTS = (CLIP, OPEN_CLIP, HUGGING_FACE_CLIP, HUGGING_FACE_SIGLIP)
