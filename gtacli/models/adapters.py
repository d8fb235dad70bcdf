"""Files of low-rank adapters in the layout of peft (github.com/huggingface/peft).

A safetensors file holds `base_model.model.LAYER.lora_A.weight` (r, in) and `...lora_B.weight`
(out, r) of every adapted layer, and the classifier under `base_model.model.`; adapter_config.json
beside it holds alpha. peft's own name of the file is adapter_model.safetensors.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gtacli.errors import GtaError
from gtacli.models.card import BOTH
from gtacli.models.files import read_weights
from gtacli.models.lora import adapted_layers
from gtacli.models.weights import head_prefixes
from gtacli.runtime.run_files import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from gtacli.runtime.strict_json import read_json, reason_of

PREFIX = "base_model.model."
PEFT_FILE = "adapter_model.safetensors"
_LARGEST_ALPHA = 1_000_000
_FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")
# Values of peft's config that leave the meaning of the tensors as it is here.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    # Others change the weights below the adapters.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapters and the classifier of a network under peft's names."""
    tensors: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model):
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B
    head = {k: v for k, v in model.state_dict().items() if k.startswith(head_prefixes(model))}
    return tensors | {f"{PREFIX}{k}": v for k, v in head.items()}


def adapter_config(model: nn.Module, spec: str) -> dict[str, Any]:
    """Return the content of adapter_config.json; `spec` names the network without adapters."""
    layers = dict(adapted_layers(model))
    first = next(iter(layers.values()))
    kinds = sorted({name.split(".", 2)[2] for name in layers})
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": spec,
        "inference_mode": True,
        "r": len(first.lora_A),
        "lora_alpha": first.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": rf"blocks\.\d+\.({'|'.join(map(re.escape, kinds))})",
        "modules_to_save": list(head_prefixes(model)),
    }


def find_adapter(path: Path) -> tuple[Path, Path] | None:
    """Return the files of tensors and config that a path names: a file, or the folder of both."""
    if os.path.isfile(path):
        return path, path.with_name(ADAPTER_CONFIG_FILE)
    for name in (ADAPTER_FILE, PEFT_FILE):
        if os.path.isfile(path / name):
            return path / name, path / ADAPTER_CONFIG_FILE
    return None


def merge_adapter(
    tensors: Mapping[str, Tensor],
    path: Path,
    classifier: tuple[str, ...],
    pool: str | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a network's tensors with an adapter merged into them, and the adapter's header.

    Args:
        tensors: of the network that the adapter was trained on, in timm's layout.
        path: a file of adapters, or the folder of one.
        classifier: prefixes of the classifier's names; the adapter may bring a new one.
        pool: `cls+mean` if the network's classifier reads both; ours say themselves what they read.

    Raises GtaError for files that cannot be read or do not fit the network.
    """
    files = find_adapter(path)
    if files is None:
        raise GtaError(f"no adapter {path}: neither a file, nor a folder with {ADAPTER_FILE}")
    config = _read_config(files[1])
    read, header = read_weights(files[0])
    factors, others = _split(read, files[0])
    both = (header.get("pool") if "architecture" in header else pool) == BOTH
    merged = dict(tensors)
    for name, pair in factors.items():
        merged[f"{name}.weight"] = _merge(merged, name, pair, config, files[0])
    for name, value in others.items():
        _check_other(tensors, name, value, classifier, both, files[0])
        merged[name] = value
    return merged, header


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = read_json(path)
    except FileNotFoundError as e:
        raise GtaError(f"no {path}, which says how the adapter beside it is applied") from e
    except (OSError, ValueError) as e:
        raise GtaError(f"{path} cannot be read ({reason_of(e)})") from e
    if not isinstance(config, dict) or "peft_type" not in config:
        raise GtaError(f"{path} is not the config of a peft adapter")
    for key, readable in _PLAIN.items():
        if key in config and config[key] not in readable:
            raise GtaError(f"{path}: adapters with {key} {config[key]!r} cannot be read")
    for key, value in config.items():  # use_dora, use_qalora, loftq_config, ...: other formulas
        switch = key.startswith("use_") and key != "use_rslora"
        if value and (switch or (key.endswith("_config") and key != "eva_config")):
            raise GtaError(f"{path}: adapters with {key} cannot be read")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise GtaError(f"{path}: r must be a whole number above 0, got {rank!r}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or abs(alpha) > _LARGEST_ALPHA:
        text = f"lora_alpha must be a number up to {_LARGEST_ALPHA:,}, got {str(alpha)[:40]!r}"
        raise GtaError(f"{path}: {text}")
    return config


def _split(
    tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return the factors A and B by the layer's name, and the other tensors by theirs."""
    factors: dict[str, dict[str, Tensor]] = {}
    others = {}
    for key, value in tensors.items():
        name = key.removeprefix(PREFIX)
        if name == key or not value.is_floating_point():
            raise GtaError(f"{path} is not a file of adapters: it holds {key}")
        if found := _FACTOR.fullmatch(name):
            factors.setdefault(found[1], {})[found[2]] = value
        else:
            others[name] = value
    if not factors:
        raise GtaError(f"{path} holds no low-rank adapters")
    return factors, others


def _merge(
    tensors: Mapping[str, Tensor],
    name: str,
    pair: Mapping[str, Tensor],
    config: Mapping[str, Any],
    path: Path,
) -> Tensor:
    """Return the matrix of a layer with its adapter."""
    matrix = tensors.get(f"{name}.weight")
    if matrix is None:
        raise GtaError(f"{path} has an adapter of {name}, which the model does not have")
    if pair.keys() != {"A", "B"}:
        raise GtaError(f"{path} has only lora_{''.join(pair)} of {name}")
    a, b = pair["A"], pair["B"]
    if matrix.ndim != 2 or a.ndim != 2 or b.ndim != 2:
        raise GtaError(f"{path}: the adapter of {name} is not one of a linear layer")
    rank = len(a)
    if (b.shape[0], a.shape[1]) != tuple(matrix.shape) or b.shape[1] != rank:
        shapes = f"{tuple(b.shape)} times {tuple(a.shape)}"
        raise GtaError(
            f"{path}: the adapter of {name} is {shapes}, the model {tuple(matrix.shape)}"
        )
    if rank != config["r"] and not config.get("rank_pattern"):
        raise GtaError(f"{path}: the adapter of {name} has rank {rank}, its config {config['r']}")
    scaling = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return torch.addmm(matrix.float(), b.float(), a.float(), alpha=scaling).to(matrix.dtype)


def _check_other(
    tensors: Mapping[str, Tensor],
    name: str,
    value: Tensor,
    classifier: tuple[str, ...],
    both: bool,
    path: Path,
) -> None:
    """Raise GtaError for a whole tensor that does not fit; a classifier may have other classes.

    `both`: it reads the CLS token and the mean of the patches.
    """
    own = tensors.get(name)
    if name.startswith(classifier):
        width = tensors["patch_embed.proj.weight"].shape[0] * (2 if both else 1)
        fits = value.shape[1:] == ((width,) if name.endswith(".weight") else ()) and len(value) > 0
    else:
        fits = own is not None and own.shape == value.shape
    if not fits:
        there = "does not have it" if own is None else f"has {tuple(own.shape)}"
        raise GtaError(f"{path}: {name} is {tuple(value.shape)}, but the model {there}")
