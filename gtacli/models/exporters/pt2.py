"""The format of `torch.export`: a graph that PyTorch runs without the network's code."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from gtacli.models.exporters.base import Export, Exporter
from gtacli.models.exporters.card import KEY

CARD = f"{KEY}.json"
"""The name of the card among the extra files."""


class Pt2(Exporter):
    """A .pt2 archive, with the card as an extra file."""

    help: ClassVar[str] = "a graph of torch.export, for PyTorch without timm, and for AOTInductor"
    suffix: ClassVar[str] = ".pt2"

    def write(self, export: Export, path: Path) -> None:
        torch.export.save(export.graph, path, extra_files={CARD: export.card.to_json()})

    def run(self, path: Path, images: Tensor) -> tuple[Tensor, ...]:
        module = torch.export.load(path).module()
        with torch.no_grad():
            return tuple(module(images))
