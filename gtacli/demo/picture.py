"""The sheet of `gta demo`: where source, plain fine-tuning and GTA look, as in GTA's Figure 1."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from gtacli.config.attention_map import AttentionMapConfig
from gtacli.demo.defaults import demo_images
from gtacli.inference.attention_maps.files import MapFiles
from gtacli.inference.attention_maps.make import make_lookers
from gtacli.inference.attention_maps.sheet import Sheet
from gtacli.inference.attention_maps.stream import look
from gtacli.runtime.devices import Compute

ROWS = 6


def draw_attention(plain: Path, gta: Path, file: Path, compute: Compute) -> None:
    """Test images of every other class, each with the maximum over heads of the CLS token's
    attention in the last block, in red. Raises RunError where `file` cannot be written."""
    lookers = make_lookers(AttentionMapConfig(), ["demo", str(plain), str(gta)], compute)
    lookers = [
        replace(looker, name=name)
        for looker, name in zip(lookers, ("source", "plain", "GTA"), strict=True)
    ]
    files = MapFiles(None, colours="red")
    sheet = Sheet(file, lookers, files, ROWS)
    for looked in look(lookers, islice(demo_images(), 0, None, 2), compute, files):
        sheet.add(looked)
    sheet.save()
