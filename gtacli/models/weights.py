"""Read weights files, load them into a model and report what became of every tensor."""

from __future__ import annotations

import pickle
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from gtacli.errors import GtaError
from gtacli.models import positions
from gtacli.runtime.archives import ArchiveError, CallError, check_archive
from gtacli.runtime.regular import open_regular, opened_path

MIN_COVERAGE = 0.9
# Keys of a checkpoint's networks in the order of preference: averaged weights before raw ones,
# DINO's teacher before its student.
PARTS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "student")
# Types that official training checkpoints hold beside tensors (arguments, scores): plain containers
# and numbers, which the unpickler fills and never calls.
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


@dataclass(frozen=True)
class LoadReport:
    """The names of a weights file's tensors by how they were used.

    Attributes:
        loaded: copied as they are.
        resized: interpolated (position and patch embeddings).
        missing: tensors of the model that the file does not have, or not in this shape.
        unexpected: tensors of the file that the model does not have.
        new_head: classifier tensors that stay random because the classes differ.
        shapes: both shapes of tensors whose shapes differ, as text.
        layout: the published layout of the file, such as "DINO".
        dropped: tensors of the file that are not part of the network: heads of the training
            objective, a decoder, a mask token, a text tower.
    """

    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    new_head: tuple[str, ...] = ()
    shapes: Mapping[str, str] = field(default_factory=dict)
    layout: str = "timm"
    dropped: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """Return the fraction of the backbone's tensors that were loaded (empty report: 1)."""
        found = len(self.loaded) + len(self.resized)
        total = found + len(self.missing)
        return found / total if total else 1.0

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} loaded", f"{len(self.resized)} resized"]
        parts += [f"{len(self.missing)} missing", f"{len(self.unexpected)} unexpected"]
        if self.new_head:
            parts.append("new classifier")
        if self.dropped:
            parts.append(f"{len(self.dropped)} left out ({_some(self.dropped)})")
        if self.layout != "timm":
            parts.insert(0, f"{self.layout} layout")
        return ", ".join(parts)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a safetensors or pickled (.pth, .pt, .bin) file.

    Of a checkpoint with several networks the first of `PARTS` is read; metadata["part"] names it.

    Raises GtaError for a missing, truncated or unknown file and for a pickle that holds more than
    tensors, arguments and numbers: such a file could run code and is never unpickled.
    """
    try:
        with open_regular(path) as file:
            if path.suffix == ".safetensors":
                return _read_safetensors(file, path)
            return _state_dict(_load_pickle(file, path), path)
    except FileNotFoundError as e:
        raise GtaError(f"no weights file {path}") from e
    except OSError as e:
        raise GtaError(f"cannot read weights file {path}: {e.strerror or e}") from e


def _read_safetensors(file: BinaryIO, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(opened_path(file, path), framework="pt") as f:
            # safe_open's own order is that of the file; get_tensor copies out of the map.
            return {k: f.get_tensor(k) for k in f.keys()}, dict(f.metadata() or {})  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError, KeyError) as e:
        reason = " ".join(str(e).split())
        raise GtaError(
            f"weights file {path} is damaged or not a safetensors file ({reason})"
        ) from e


def _load_pickle(file: BinaryIO, path: Path) -> Any:
    """Return what a pickled file holds; nothing is called but what makes tensors and numbers."""
    try:
        check_archive(file)
        file.seek(0)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except CallError as e:
        raise _more_than_tensors(path, f" ({e})") from e
    except ArchiveError as e:
        raise GtaError(f"weights file {path} {e}") from e
    except pickle.UnpicklingError as e:
        raise _more_than_tensors(path, f"{_refused_class(e)}, or is damaged") from e
    except MemoryError:
        raise
    except Exception as e:  # a damaged file makes torch.load raise almost any type
        raise GtaError(f"weights file {path} is damaged or of an unknown format") from e


def _more_than_tensors(path: Path, what: str) -> GtaError:
    return GtaError(
        f"weights file {path} holds more than tensors{what}. It could run code, so it was not "
        "loaded; save its state_dict alone, best as safetensors"
    )


def _refused_class(error: pickle.UnpicklingError) -> str:
    """Return " (NAME)" for the class that torch refused; only its message names the class."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" ({found[1]})" if found else ""


def _state_dict(payload: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a checkpoint's tensors, also under one of the usual keys, and that key."""
    metadata = {}
    for part in PARTS:
        if isinstance(payload, dict) and isinstance(payload.get(part), dict):
            payload, metadata["part"] = payload[part], part
    if not isinstance(payload, dict):
        raise GtaError(f"weights file {path} holds no state_dict")
    tensors = {str(k): v for k, v in payload.items() if isinstance(v, Tensor)}
    if not tensors:
        raise GtaError(f"weights file {path} holds no tensors of a model")
    for wrapper in ("module.", "_orig_mod."):  # saved from inside DDP, or compiled
        if all(k.startswith(wrapper) for k in tensors):
            tensors = {k.removeprefix(wrapper): v for k, v in tensors.items()}
    return tensors, metadata


def _some(names: tuple[str, ...]) -> str:
    """Return the first names with * for block numbers: 'head.mlp.*.weight, mask_token'."""
    kinds = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", n) for n in names))
    return ", ".join(kinds[:3]) + (", …" if len(kinds) > 3 else "")


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the classifier's parameter names (two for a distilled DeiT)."""
    names = cast(Any, model).pretrained_cfg.get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def load_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    partial: bool = False,
    grid: tuple[int, int] | None = None,
    method: positions.ResizeMethod = "timm",
) -> LoadReport:
    """Copy `tensors` into `model`; resize those that depend on the image size.

    Position embeddings are resized to the model's grid, square or not (see `positions`), patch
    embeddings by the pseudo-inverse resize of FlexiViT. A classifier for other classes stays as
    initialized.

    Args:
        where: name of the file in errors.
        partial: accept a file that fills less than 90 % of the backbone.
        grid: (gh, gw) of the file's position embeddings if known; default: a square.
        method: resizing of position embeddings.

    Raises GtaError below 90 %, or without position embeddings that fit (unless `partial`).
    """
    own = model.state_dict()
    heads = head_prefixes(model)
    loaded: list[str] = []
    resized: list[str] = []
    missing: list[str] = []
    new_head: list[str] = []
    shapes: dict[str, str] = {}
    fitting: dict[str, Tensor] = {}
    for name, target in own.items():
        is_head = name.startswith(heads)
        value = tensors.get(name)
        if value is not None and (value.shape != target.shape or _grid_differs(model, name, grid)):
            shapes[name] = f"{tuple(value.shape)} in the file, {tuple(target.shape)} in the model"
            value = None if is_head else _resize(model, name, value, grid, method)
        if value is None:
            (new_head if is_head else missing).append(name)
            continue
        (resized if name in shapes or value is not tensors[name] else loaded).append(name)
        fitting[name] = value.to(target.dtype)
    _check_finite(fitting, where)
    unexpected = tuple(n for n in tensors if n not in own)
    report = LoadReport(
        tuple(loaded), tuple(resized), tuple(missing), unexpected, tuple(new_head), shapes
    )
    backbone = [n for n in own if not n.startswith(heads)]
    found = sum(n in fitting for n in backbone)
    lost = "pos_embed" in missing
    if (found < MIN_COVERAGE * len(backbone) or lost) and not partial:
        example = next((f"; {n} is {shapes[n]}" for n in missing if n in shapes), "")
        raise GtaError(
            f"{where} fills only {found} of {len(backbone)} tensors of the backbone{example}; name "
            "the right architecture, or set `partial_weights`"
        )
    model.load_state_dict(fitting, strict=False)
    return report


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise GtaError if weights are NaN or infinite: every output of the network would be NaN."""
    counts = {name: int(value.numel() - value.isfinite().sum()) for name, value in tensors.items()}
    bad = {name: count for name, count in counts.items() if count}
    if bad:
        name, count = next(iter(bad.items()))
        more = f" (and of {len(bad) - 1} other tensors)" if len(bad) > 1 else ""
        raise GtaError(
            f"{where}: {count} of {tensors[name].numel()} values of {name}{more} are NaN or "
            "infinite, as after a training that diverged; take another checkpoint"
        )


def _grid_differs(model: nn.Module, name: str, grid: tuple[int, int] | None) -> bool:
    """Return whether as many position embeddings lie on another grid (4 x 9 and 6 x 6)."""
    own = tuple(cast(Any, model).patch_embed.grid_size)
    return name == "pos_embed" and grid is not None and tuple(grid) != own


def _resize(
    model: nn.Module,
    name: str,
    value: Tensor,
    grid: tuple[int, int] | None,
    method: positions.ResizeMethod,
) -> Tensor | None:
    m = cast(Any, model)
    if name == "pos_embed" and value.ndim == 3 and value.shape[-1] == m.pos_embed.shape[-1]:
        prefix = 0 if m.no_embed_class else m.num_prefix_tokens
        tokens = value.shape[1] - prefix
        old = grid if grid is not None and grid[0] * grid[1] == tokens else _square(tokens)
        if old is None:
            return None
        return positions.resize(value, tuple(m.patch_embed.grid_size), old, prefix, method)
    if name == "patch_embed.proj.weight" and value.shape[:2] == m.patch_embed.proj.weight.shape[:2]:
        return cast(
            Tensor, resample_patch_embed(value.float(), list(m.patch_embed.proj.weight.shape[2:]))
        )
    return None


def _square(tokens: int) -> tuple[int, int] | None:
    """Return the square grid of as many position embeddings, or None if there is none."""
    side = round(tokens**0.5)
    return (side, side) if side * side == tokens else None
