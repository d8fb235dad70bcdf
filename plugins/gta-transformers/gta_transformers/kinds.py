"""Architectures of timm for the config.json of transformers, one function per kind of network.

Each returns the name of the nearest published architecture and all the arguments that the config
determines, so that networks of other sizes are built as well. Tensors are converted by gtacli.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import timm
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)

from gtacli.errors import GtaError

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}
_SIZES = {
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge",
    (1152, 27): "so400m",
    (1536, 40): "giant",
}
_EPS = 1.1e-5
"""Largest difference of the eps of a LayerNorm: timm's have 1e-6, ViT's of transformers 1e-12."""


class Kind(NamedTuple):
    """A kind of network.

    Attributes:
        layout: the name of the layout of its tensors in gtacli.
        describe: returns the architecture's name and arguments.
        mean, std: by which transformers normalizes images, where no file says otherwise.
    """

    layout: str
    describe: Callable[[Config], tuple[str, dict[str, Any]]]
    mean: tuple[float, ...] = IMAGENET_INCEPTION_MEAN
    std: tuple[float, ...] = IMAGENET_INCEPTION_STD


class Config:
    """The entries of a config.json, checked for their types.

    Args:
        values: of the vision part.
        where: name of the file in messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def fail(self, text: str) -> GtaError:
        return GtaError(f"{self.where}: {text}")

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if type(value) is not int or not 0 <= value <= 1 << 16:
            raise self.fail(f"its {key} is {value!r:.40}, no number that a network has")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if type(value) not in (int, float) or not abs(value) <= 1e6:
            raise self.fail(f"its {key} is {value!r:.40}, no number that a network has")
        return float(value)

    def switch(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(f"its {key} is {value!r:.40}, neither true nor false")
        return value

    def sides(self, key: str, default: int) -> int | list[int]:
        value = self.values.get(key, default)
        sides = value if isinstance(value, list) else [value]
        if len(sides) not in (1, 2) or any(type(n) is not int or not 0 < n < 8193 for n in sides):
            raise self.fail(f"its {key} is {value!r:.40}, no size in pixels")
        return sides[0] if len({*sides}) == 1 else list(sides)

    def activation(self, default: str = "gelu") -> str:
        value = self.values.get("hidden_act", default)
        if value not in _ACTIVATIONS:
            raise self.fail(f"its hidden_act is {value!r:.40}; known: {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[value]

    def size(self, width: int = 768, depth: int = 12, heads: int = 12) -> dict[str, Any]:
        """Return the arguments that all networks have."""
        found = {
            "embed_dim": self.whole("hidden_size", width),
            "depth": self.whole("num_hidden_layers", depth),
            "num_heads": self.whole("num_attention_heads", heads),
        }
        if not all(found.values()) or found["embed_dim"] % found["num_heads"]:
            raise self.fail(
                f"its hidden_size {found['embed_dim']} is not a multiple of its "
                f"{found['num_heads']} attention heads"
            )
        return found

    def ratio(self, hidden: int) -> float:
        """Return the argument `mlp_ratio` for a number of hidden channels."""
        width = self.whole("hidden_size", 768)
        return hidden / width if hidden % width == 0 else (hidden + 0.5) / width

    def check_eps(self, eps: float, default: float) -> None:
        """Raise GtaError for LayerNorms that are not timm's, but for what is negligible."""
        own = self.number("layer_norm_eps", default)
        if not abs(own - eps) < _EPS:
            raise self.fail(f"its layer_norm_eps is {own:g}; timm's network has {eps:g}")


def _published(pattern: str, size: Mapping[str, Any], fallback: str) -> str:
    """Return the architecture of these sizes, or the fallback, whose sizes are then replaced."""
    word = _SIZES.get((size["embed_dim"], size["depth"]))
    name = pattern.format(size=word)
    return name if word is not None and timm.is_model(name) else fallback


def _vit(config: Config) -> tuple[str, dict[str, Any]]:
    patch, image = config.sides("patch_size", 16), config.sides("image_size", 224)
    config.check_eps(1e-6, 1e-12)
    kwargs = {
        **config.size(),
        "mlp_ratio": config.ratio(config.whole("intermediate_size", 3072)),
        "patch_size": patch,
        "img_size": image,
        "qkv_bias": config.switch("qkv_bias", True),
        "act_layer": config.activation(),
    }
    name = _published(f"vit_{{size}}_patch{patch}_{image}", kwargs, "vit_base_patch16_224")
    return name, kwargs


def _dinov2(config: Config, registers: int = 0) -> tuple[str, dict[str, Any]]:
    config.check_eps(1e-6, 1e-6)
    size = config.size()
    width = size["embed_dim"]
    hidden = int(width * config.number("mlp_ratio", 4))
    gated = config.switch("use_swiglu_ffn", False)
    if gated:  # both halves in one layer, as in timm
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
    reg = f"_reg{registers}" if registers else ""
    fallback = f"vit_{'giant' if gated else 'base'}_patch14{'_reg4' if registers else ''}_dinov2"
    kwargs = {
        **size,
        "mlp_ratio": config.ratio(hidden),
        "patch_size": config.sides("patch_size", 14),
        "img_size": config.sides("image_size", 224),
        "qkv_bias": config.switch("qkv_bias", True),
    }
    if registers:
        kwargs["reg_tokens"] = registers
    if not gated:
        kwargs["act_layer"] = config.activation()
    name = fallback if gated else _published(f"vit_{{size}}_patch14{reg}_dinov2", size, fallback)
    return name, kwargs


def _dinov2_registers(config: Config) -> tuple[str, dict[str, Any]]:
    return _dinov2(config, config.whole("num_register_tokens", 4))


def _dinov3(config: Config) -> tuple[str, dict[str, Any]]:
    config.check_eps(1e-5, 1e-5)
    for key in ("mlp_bias", "proj_bias"):
        if not config.switch(key, True):
            raise config.fail(f"it has no {key}, which timm's network has")
    size = config.size(384, 12, 6)
    kwargs = {
        **size,
        "mlp_ratio": config.ratio(config.whole("intermediate_size", 1536)),
        "patch_size": config.sides("patch_size", 16),
        "img_size": config.sides("image_size", 224),
        "num_reg_tokens": config.whole("num_register_tokens", 0),
        "rope_temperature": config.number("rope_theta", 100.0),
        "swiglu_mlp": config.switch("use_gated_mlp", False),
        "global_pool": "token",
    }
    if kwargs["swiglu_mlp"]:
        kwargs["swiglu_align_to"] = 1  # with it timm keeps both halves apart, as transformers does
    known = "silu" if kwargs["swiglu_mlp"] else "gelu"
    if config.activation() != known:
        raise config.fail(f"its hidden_act is not {known}, which timm's network has")
    name = _published("vit_{size}_patch16_dinov3", size, "vit_small_patch16_dinov3")
    return name, kwargs


def _siglip(config: Config) -> tuple[str, dict[str, Any]]:
    config.check_eps(1e-6, 1e-6)
    if not config.switch("vision_use_head", True):
        raise config.fail("it has no head (vision_use_head), which timm's network has")
    patch, image = config.sides("patch_size", 16), config.sides("image_size", 224)
    kwargs = {
        **config.size(),
        "mlp_ratio": config.ratio(config.whole("intermediate_size", 3072)),
        "patch_size": patch,
        "img_size": image,
        "act_layer": config.activation("gelu_pytorch_tanh"),
    }
    pattern = f"vit_{{size}}_patch{patch}_siglip_{image}"
    return _published(pattern, kwargs, "vit_base_patch16_siglip_224"), kwargs


_IMAGENET = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
KINDS = {
    "vit": Kind("Hugging Face ViT", _vit),
    "dinov2": Kind("Hugging Face DINOv2", _dinov2, *_IMAGENET),
    "dinov2_with_registers": Kind("Hugging Face DINOv2", _dinov2_registers, *_IMAGENET),
    "dinov3_vit": Kind("Hugging Face DINOv3", _dinov3, *_IMAGENET),
    "siglip": Kind("Hugging Face SigLIP", _siglip),
    "siglip_vision_model": Kind("Hugging Face SigLIP", _siglip),
}
"""By the `model_type` of a config.json."""
