"""The model card: what the header of a weights file, or a hub's config.json, may say of a model.

Both come with weights of strangers, so they are data of known types and sizes. Arguments of the
architecture are a fixed list of numbers, switches and short names; paths, configs and modules are
not among them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from gtacli.config.base import StrictModel, first_problem
from gtacli.errors import GtaError
from gtacli.runtime.strict_json import parse_json, reason_of

Side = Annotated[int, Field(ge=1, le=8192)]
Scale = Annotated[float, Field(gt=0, le=1000)]
Level = Annotated[float, Field(ge=-1000, le=1000)]
_WORD = re.compile(r"[a-z0-9_]{1,40}")
BOTH: Literal["cls+mean"] = "cls+mean"
_LARGEST = 1 << 16
_DEEPEST = 256


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SWITCHES = _names(
    """attn_only_layer_scale class_token dynamic_img_pad dynamic_img_size fc_norm final_norm
    fix_init no_embed_class pool_include_prefix pre_norm proj_bias qk_norm qkv_bias qkv_fused
    rope_mixed_mode rope_rotate_half scale_attn_inner scale_attn_norm scale_mlp scale_mlp_norm
    strict_img_size swiglu_mlp use_abs_pos_emb use_fc_norm use_post_norm
    use_post_transformer_norm use_pre_transformer_norm use_rot_pos_emb"""
)
NUMBERS = _names(
    """attn_drop_rate attn_pool_mlp_ratio attn_pool_num_heads depth drop_path_rate drop_rate
    embed_dim in_chans init_values mlp_ratio num_classes num_heads num_kv_heads num_reg_tokens
    patch_drop_rate pos_drop_rate proj_drop_rate reg_tokens rope_grid_offset rope_temperature
    swiglu_align_to"""
)
SIZES = _names("img_size patch_size ref_feat_shape")
WORDS = _names(
    """act_layer attn_type global_pool norm_layer pos_embed rope_grid_indexing rope_type
    weight_init"""
)


class ModelCard(StrictModel):
    """The description of a model beside its weights; other entries of a header are ignored.

    Attributes:
        architecture: timm's name.
        kwargs: arguments of `timm.create_model`, see `check_arguments`.
        image_size: (h, w) in pixels, which the position embeddings are for.
        test_size: (h, w) at which the model is used, if it is another.
        mean, std: of the normalization, per channel.
        classes: names of the classes.
        pool: the features that the classifier reads, where timm has no pooling for them.
        multi_label: whether the classes are independent, each with a sigmoid of its own.
    """

    model_config = ConfigDict(extra="ignore")

    architecture: str | None = Field(None, max_length=200)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    image_size: tuple[Side, Side] | None = None
    test_size: tuple[Side, Side] | None = None
    mean: tuple[Level, Level, Level] | None = None
    std: tuple[Scale, Scale, Scale] | None = None
    interpolation: Literal["bicubic", "bilinear", "nearest"] | None = None
    crop_pct: float | None = Field(None, gt=0, le=1)
    classes: tuple[str, ...] = ()
    pool: Literal["cls+mean"] | None = None
    multi_label: bool = False


MULTI_LABEL = "multi_label_classification"
"""The `problem_type` of a hub's config.json for any number of labels per image."""
HUB_FIELDS = ("architecture", "mean", "std", "interpolation", "crop_pct")
_TEXTS = ("architecture", "interpolation", "pool")
_OTHER_NAMES = {"mean": "input_mean", "std": "input_std"}  # as some exports of OpenCLIP say


def read_card(header: Mapping[str, str], where: str) -> ModelCard:
    """Return the card in the header of a weights file.

    Args:
        where: name of the file in messages.

    Raises GtaError that names the entry.
    """
    values: dict[str, Any] = {}
    for key in ModelCard.model_fields:
        text = header.get(key) or header.get(_OTHER_NAMES.get(key, ""))
        if not text:
            continue
        if key in _TEXTS:
            values[key] = text
            continue
        if key in _OTHER_NAMES and "[" not in text:  # numbers with commas, without brackets
            text = f"[{text}]"
        try:
            values[key] = parse_json(text)
            if key in _OTHER_NAMES and isinstance(values[key], list) and len(values[key]) == 1:
                values[key] *= 3  # of a network for gray images
        except ValueError as error:
            raise GtaError(f"{where}: `{key}` of its header: {reason_of(error)}") from None
    card = _validate(values, f"{where}: ", " of its header")
    check_arguments(card.kwargs, f"{where}: its header")
    return card


def hub_card(config: Any, where: str) -> ModelCard:
    """Return the card in a config.json of timm's layout beside the weights.

    Raises GtaError that names the entry.
    """
    if not isinstance(config, dict):
        raise GtaError(f"{where}: its config.json is not a JSON object")
    inner = config.get("pretrained_cfg", config)
    arguments = config.get("model_args") or {}
    if not isinstance(inner, dict) or not isinstance(arguments, dict):
        raise GtaError(f"{where}: `pretrained_cfg` or `model_args` of its config.json is no object")
    if inner.get("custom_load"):
        raise GtaError(f"{where}: its config.json asks for a loader of its own (`custom_load`)")
    for key in ("classifier", "first_conv"):
        names = inner.get(key) or []
        if not all(
            isinstance(name, str) for name in (names if isinstance(names, list) else [names])
        ):
            raise GtaError(f"{where}: `{key}` of its config.json is no name of a layer")
    given = {**inner, "architecture": config.get("architecture", inner.get("architecture"))}
    values = {k: given[k] for k in HUB_FIELDS if given.get(k) is not None}
    values["multi_label"] = config.get("problem_type") == MULTI_LABEL
    card = _validate({**values, "kwargs": arguments}, f"{where}: ", " of its config.json")
    check_arguments(arguments, f"{where}: its config.json")
    return card


def check_arguments(kwargs: Mapping[str, Any], who: str) -> None:
    """Raise GtaError for arguments of an architecture that weights must not set.

    Args:
        who: the sentence's subject ("FILE: its header").
    """
    for key, value in kwargs.items():
        if not (SWITCHES | NUMBERS | SIZES | WORDS) & {key}:
            raise GtaError(
                f"{who} sets the argument {key[:40]!r} of the architecture, which weights must not"
            )
        if not _is_allowed(key, value):
            raise GtaError(f"{who} sets {key} to {str(value)[:40]!r}, which is no value for it")


def _is_allowed(key: str, value: Any) -> bool:
    if value is None or (key in SWITCHES and isinstance(value, bool)):
        return True
    if key in WORDS and isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    parts = value if key in SIZES and isinstance(value, list | tuple) else [value]
    if not 1 <= len(parts) <= 2 or (key == "in_chans" and value != 3):
        return False
    whole = key in SIZES
    largest = _DEEPEST if key == "depth" else _LARGEST
    return key in SIZES | NUMBERS and all(
        isinstance(n, int if whole else int | float) and not isinstance(n, bool)
        and whole <= n <= largest
        for n in parts
    )  # fmt: skip


def _validate(values: Mapping[str, Any], before: str, after: str) -> ModelCard:
    try:
        # As JSON, where a list may be a tuple.
        return ModelCard.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problem = first_problem(error, ModelCard.model_fields)
        key = problem.path[0] if problem.path else "text"
        raise GtaError(f"{before}`{key}`{after} {problem.text}") from None
