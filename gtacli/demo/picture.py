"""The contact sheet of `gta demo`: attention of source, plain fine-tuning and GTA (Figure 1)."""

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
    """Draw the CLS token's attention in the last block, maximum over heads, on test images.

    One image of every other class. Raises RunError if `file` cannot be written.
    """
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
