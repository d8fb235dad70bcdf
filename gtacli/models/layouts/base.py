"""What a layout is, and the steps that renaming cannot do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Renames = tuple[tuple[str, str], ...]
Step = Callable[[Tensors], Tensors]


class Converted(NamedTuple):
    """A checkpoint in timm's layout.

    Attributes:
        tensors: of the network, under timm's names.
        dropped: the file's names of what was left out on purpose: heads of the training objective,
            decoders, mask tokens, other towers, fixed buffers.
        kwargs: what `timm.create_model` needs beside the architecture.
    """

    tensors: Tensors
    dropped: tuple[str, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """One way to name a ViT's tensors. All patterns are searched (re.search) in names.

    Attributes:
        name: as its users call it.
        signs: each is found in some name.
        without: is found in no name.
        parts: keys of the checkpoint under which it lies; for names that timm's own bare files
            have as well. Any, if empty.
        proof: of the values, where names are not enough.
        roots: prefixes under which the network may lie; the first that occurs counts, and what
            lies elsewhere is dropped.
        drop: names, below the root, that are no part of the network.
        constants: names that the steps check or use up, and the network has not.
        rename: substitutions, each tried on every name in this order.
        steps: what names alone cannot do, in this order.
        kwargs: what the tensors say of the architecture beyond its name.
        imagenet: the publisher always normalises images with ImageNet's mean and std.
        caution: what the tensors cannot tell and the user must know.
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
    steps: tuple[Step, ...] = ()
    kwargs: Callable[[Tensors], dict[str, Any]] | None = None
    imagenet: bool = False
    caution: str = ""

    def fits(self, tensors: Mapping[str, Tensor], part: str = "") -> bool:
        """Whether these tensors, found under the key `part`, are in this layout."""
        return (
            (not self.parts or part in self.parts)
            and all(_found(sign, tensors) for sign in self.signs)
            and not (self.without and _found(self.without, tensors))
            and (self.proof is None or self.proof(tensors))
        )

    def convert(self, tensors: Mapping[str, Tensor]) -> Converted:
        """The tensors in timm's layout.

        Raises GtaError for tensors that timm's architecture cannot hold.
        """
        root = next((r for r in self.roots if any(n.startswith(r) for n in tensors)), "")
        kept: Tensors = {}
        dropped: list[str] = []
        for name, value in tensors.items():
            inner = name.removeprefix(root)
            if not name.startswith(root) or (self.drop and re.search(self.drop, inner)):
                dropped.append(name)
                continue
            if self.constants and re.search(self.constants, inner):
                dropped.append(name)
            for pattern, replacement in self.rename:
                inner = re.sub(pattern, replacement, inner)
            kept[inner] = value
        for step in self.steps:
            kept = step(kept)
        return Converted(kept, tuple(dropped), self.kwargs(kept) if self.kwargs else {})


def _found(pattern: str, names: Iterable[str]) -> bool:
    compiled = re.compile(pattern)
    return any(compiled.search(n) for n in names)


def join_qkv(t: Tensors) -> Tensors:
    """blocks.N.attn.{q,k,v} (C x C each) into one qkv (3C x C); a bias that is not there is 0."""
    out = {n: v for n, v in t.items() if not re.search(r"\.attn\.[qkv]\.", n)}
    for name in t:
        at, q, kind = name.rpartition(".attn.q.")
        if not q:
            continue
        parts = [t.get(f"{at}.attn.{x}.{kind}", torch.zeros_like(t[name])) for x in "qkv"]
        out[f"{at}.attn.qkv.{kind}"] = torch.cat(parts)
    return out


def registers_without_position(t: Tensors) -> Tensors:
    """Moves the CLS token's position embedding into the token: timm's registers models have none.

    Only with registers; the models without keep both apart, as timm does.
    """
    if "reg_token" not in t or "pos_embed" not in t:
        return t
    position = t["pos_embed"]
    return {**t, "cls_token": t["cls_token"] + position[:, :1], "pos_embed": position[:, 1:]}
