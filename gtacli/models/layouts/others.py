"""Layouts of the ViTs of torchvision, MMPretrain and MMSegmentation."""

from __future__ import annotations

from gtacli.models.layouts.base import Layout

TORCHVISION = Layout(
    "torchvision",
    signs=(r"^class_token$", r"^conv_proj\.weight$", r"^encoder\.layers\.encoder_layer_0\."),
    rename=(
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.ln\.", "norm."),
        (r"^heads\.head\.", "head."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"\.self_attention\.in_proj_", ".attn.qkv."),
        (r"\.self_attention\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
        (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    ),
    drop=r"^heads\.pre_logits\.",
    usual_imagenet=True,
)
MMPRETRAIN = Layout(
    "MMPretrain",
    signs=(r"^(backbone\.)?patch_embed\.projection\.weight$", r"layers\.0\.ffn\.layers\."),
    without=r"rel_pos|relative_position|gamma_1",
    rename=(
        (r"^backbone\.", ""),
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"^ln1\.", "norm."),
        (r"^(pre_norm|ln_pre)\.", "norm_pre."),
        (r"^head\.(layers\.head|fc)\.", "head."),
        (r"^layers\.(\d+)\.", r"blocks.\1."),
        (r"\.ln(\d)\.", r".norm\1."),
        (r"\.attn\.attn\.in_proj_", ".attn.qkv."),  # MMSegmentation
        (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
        (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
        (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
        (r"\.attn\.gamma1\.weight$", ".ls1.gamma"),
        (r"\.ffn\.gamma2\.weight$", ".ls2.gamma"),
    ),
    drop=r"^(neck|decode_head|auxiliary_head|data_preprocessor|target_generator)\.|mask_token$",
)

OTHER_LAYOUTS = (TORCHVISION, MMPRETRAIN)
