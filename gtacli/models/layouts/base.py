"""The description of a layout, and conversions that renaming cannot do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Renames = tuple[tuple[str, str], ...]


class ConvertedWeights(NamedTuple):
    """A checkpoint in timm's layout.

    Attributes:
        tensors: tensors of the network by timm's names.
        dropped: the file's names of tensors that are not part of the network: heads of the training
            objective, decoders, mask tokens, other towers, fixed buffers.
        kwargs: arguments of `timm.create_model` beside the architecture.
    """

    tensors: Tensors
    dropped: tuple[str, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """A publisher's names of a ViT's tensors. All patterns are searched (re.search) in names.

    Attributes:
        name: name in reports.
        signs: patterns that each occur in some name.
        without: pattern that occurs in no name.
        parts: keys of the checkpoint that hold it, for names that timm's own files have as well;
            empty: any.
        proof: test of the values, if names are not enough.
        roots: prefixes of the network's names; the first that occurs is used, and tensors without
            it are dropped.
        drop: names, below the root, that are not part of the network.
        constants: names that the steps check or use and the network does not have.
        rename: substitutions, applied to every name in this order.
        steps: conversions that renaming cannot do, in this order.
        kwargs: arguments of the architecture that follow from the tensors.
        imagenet: the publisher always normalizes images with ImageNet's mean and std.
        usual_imagenet: its published weights do, but others trained in this layout need not;
            assumed for architectures of which timm has weights with that normalization.
        caution: warning about a property that the tensors do not determine.
    """

    name: str
    signs: tuple[str, ...]
    without: str = ""
    parts: tuple[str, ...] = ()
    proof: Callable[[Mapping[str, Tensor]], bool] | None = None
    roots: tuple[str, ...] = ("",)
    drop: str = ""
    constants: str = ""
    rename: Renames = ()
    steps: tuple[Callable[[Tensors], Tensors], ...] = ()
    kwargs: Callable[[Tensors], dict[str, Any]] | None = None
    imagenet: bool = False
    usual_imagenet: bool = False
    caution: str = ""

    def fits(self, tensors: Mapping[str, Tensor], part: str = "") -> bool:
        """Return whether these tensors, read from the key `part`, are in this layout."""
        return (
            (not self.parts or part in self.parts)
            and all(_found(sign, tensors) for sign in self.signs)
            and not (self.without and _found(self.without, tensors))
            and (self.proof is None or self.proof(tensors))
        )

    def reaches_network(self, names: Iterable[str]) -> bool:
        """Return whether these names lead to timm's: those of a larger network might not."""
        names = list(names)
        root = self._root(names)
        inner = (name.removeprefix(root) for name in names if name.startswith(root))
        return any(self._renamed(name) == "patch_embed.proj.weight" for name in inner)

    def convert(self, tensors: Mapping[str, Tensor]) -> ConvertedWeights:
        """Convert the tensors to timm's layout.

        Raises GtaError for tensors that timm's architecture cannot hold.
        """
        root = self._root(tensors)
        kept: Tensors = {}
        dropped: list[str] = []
        for name, value in tensors.items():
            inner = name.removeprefix(root)
            if not name.startswith(root) or (self.drop and re.search(self.drop, inner)):
                dropped.append(name)
                continue
            if self.constants and re.search(self.constants, inner):
                dropped.append(name)
            kept[self._renamed(inner)] = value
        for step in self.steps:
            kept = step(kept)
        return ConvertedWeights(kept, tuple(dropped), self.kwargs(kept) if self.kwargs else {})

    def _root(self, names: Iterable[str]) -> str:
        return next((r for r in self.roots if any(n.startswith(r) for n in names)), "")

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self.rename:
            name = re.sub(pattern, replacement, name)
        return name


def _found(pattern: str, names: Iterable[str]) -> bool:
    compiled = re.compile(pattern)
    return any(compiled.search(n) for n in names)


def join_qkv(t: Tensors) -> Tensors:
    """Join blocks.N.attn.{q,k,v} (C x C each) into one qkv (3C x C); a missing bias is 0."""
    out = {n: v for n, v in t.items() if not re.search(r"\.attn\.[qkv]\.", n)}
    for name in t:
        at, q, kind = name.rpartition(".attn.q.")
        if not q:
            continue
        parts = [t.get(f"{at}.attn.{x}.{kind}", torch.zeros_like(t[name])) for x in "qkv"]
        out[f"{at}.attn.qkv.{kind}"] = torch.cat(parts)
    return out


def registers_without_position(t: Tensors) -> Tensors:
    """Add the CLS token's position embedding to the token, as timm's models with registers do.

    Models without registers keep both separate, as timm does.
    """
    if "reg_token" not in t or "pos_embed" not in t:
        return t
    position = t["pos_embed"]
    return {**t, "cls_token": t["cls_token"] + position[:, :1], "pos_embed": position[:, 1:]}
