"""Load tensors into a model and report what became of every one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, cast

import torch
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from gtacli.errors import GtaError
from gtacli.models import positions
from gtacli.models.card import ModelCard, read_card

MIN_COVERAGE = 0.9
MIN_PARTIAL = 0.5
"""Least coverage of weights that are accepted as partial: below it they are of another network."""
_PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Tensors before the first block, which every feature depends on.
_ENTRY = ("patch_embed.", "pos_embed", "cls_token", "dist_token", "reg_token", "norm_pre.")
_ONE_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


@dataclass(frozen=True)
class Weights:
    """An architecture's weights before they are loaded into a model.

    Attributes:
        architecture: timm's name.
        tensors: in timm's layout; None for random weights.
        metadata: header of the file (mean, std, classes, ...; see `metadata`).
        where: name of the file in messages.
        kwargs: arguments of `timm.create_model` beside the name.
        layout, dropped: see `LoadReport`.
        pool: the features that the classifier among the tensors reads; None: those that the
            architecture, `kwargs` and the header say.
    """

    architecture: str
    tensors: Mapping[str, Tensor] | None
    metadata: Mapping[str, str]
    where: str
    kwargs: Mapping[str, Any] | None = None
    pretrained_cfg: Mapping[str, Any] | None = None
    layout: str = "timm"
    dropped: tuple[str, ...] = ()
    pool: str | None = None

    @property
    def card(self) -> ModelCard:
        """Return what the header says of the model. Raises GtaError for what it must not say."""
        return read_card(self.metadata, self.where)


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


def _some(names: tuple[str, ...]) -> str:
    """Return the first names with * for block numbers: 'head.mlp.*.weight, mask_token'."""
    kinds = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", n) for n in names))
    return ", ".join(kinds[:3]) + (", …" if len(kinds) > 3 else "")


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the classifier's parameter names (two for a distilled DeiT)."""
    names = cast(Any, model).pretrained_cfg.get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def is_of_backbone(name: str) -> bool:
    """Return whether a tensor of this name would change what the blocks of a ViT compute."""
    return name.startswith(("blocks.", *_ENTRY))


def load_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    partial: bool | None = None,
    grid: tuple[int, int] | None = None,
    method: positions.ResizeMethod = "timm",
) -> LoadReport:
    """Copy `tensors` into `model`; resize those that depend on the image size.

    Position embeddings are resized to the model's grid, square or not (see `positions`), patch
    embeddings by the pseudo-inverse resize of FlexiViT. A classifier for other classes stays as
    initialized.

    Args:
        where: name of the file in errors.
        partial: accept a file that fills less than 90 % of the backbone, but at least half of it;
            None: no, and the user has no option for it.
        grid: (gh, gw) of the file's position embeddings if known; default: a square.
        method: resizing of position embeddings.

    Raises GtaError below 90 %, or without all tensors before the first block and all matrices of
    the blocks (unless `partial`).
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
        if value.dtype not in _PRECISIONS and target.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise GtaError(
                f"{where}: {name} is of {kind}, as in a quantized network, whose scales are not "
                "read; take the weights in float32, float16 or bfloat16"
            )
        fitting[name] = value.to(target.dtype)
    _check_finite(fitting, where)
    unexpected = tuple(n for n in tensors if n not in own)
    report = LoadReport(
        tuple(loaded), tuple(resized), tuple(missing), unexpected, tuple(new_head), shapes
    )
    backbone = [n for n in own if not n.startswith(heads)]
    found = sum(n in fitting for n in backbone)
    entry = next((n for n in missing if n.startswith(_ENTRY)), None)
    drawn = next((n for n in missing if n.startswith("blocks.") and own[n].ndim > 1), None)
    few = found < (MIN_PARTIAL if partial else MIN_COVERAGE) * len(backbone)
    if few or ((entry or drawn) and not partial):
        what = f"fills only {found} of {len(backbone)} tensors of the backbone"
        if not few:
            why = "which every block depends on" if entry else "which would stay random"
            what = f"has nothing for {entry or drawn}, {why}"
        known = _explain_few(where, tensors)
        advice = f"name the right architecture{_way_out(partial)}" if known is None else known
        raise GtaError(f"{where} {what}{_example(report, entry or drawn)}; {advice}")
    model.load_state_dict(fitting, strict=False)
    return report


def _explain_few(where: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Return why a file has so few of a network's tensors, and what to do; None if unknown."""
    if tensors and all(value.numel() == 0 for value in tensors.values()):
        return (
            "all its tensors are empty: DeepSpeed's ZeRO-3 keeps the values in other files, which "
            "its zero_to_fp32.py joins"
        )
    if any(".base_layer." in name or ".lora_A." in name for name in tensors):
        return (
            "it has adapters that are not merged: merge them (merge_and_unload of peft), or name "
            "model and adapter as MODEL+ADAPTER"
        )
    if _ONE_SHARD.search(where):
        return "it is one of several shards: name their folder, or their index"
    return None


def _example(report: LoadReport, entry: str | None) -> str:
    """Return a tensor that was not loaded beside what the file has, as a clause."""
    reshaped = next((n for n in (entry, *report.missing) if n in report.shapes), None)
    if reshaped is not None:
        return f"; {reshaped} is {report.shapes[reshaped]}"
    name = entry or report.missing[0]
    near = get_close_matches(name, report.unexpected, 1, 0) or report.unexpected[:1]
    return f"; the model has {name}, the file {near[0]:.120}" if near else ""


def _way_out(partial: bool | None) -> str:
    if partial is None:
        return ""
    if not partial:
        return ", or set `partial_weights`"
    return f" (`partial_weights` accepts at least {MIN_PARTIAL:.0%} of them)"


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
