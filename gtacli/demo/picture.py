"""The contact sheet of `gta demo`: attention of source, plain fine-tuning and GTA (Figure 1)."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from gtacli.config.attention_map import AttentionMapConfig
from gtacli.demo.defaults import demo_images
from gtacli.inference.attention_maps.export import export_maps
from gtacli.inference.attention_maps.files import MapFiles
from gtacli.inference.attention_maps.make import make_extractors
from gtacli.inference.attention_maps.sheet import MapSheet
from gtacli.inference.stream import Failure
from gtacli.runtime.devices import Compute

ROWS = 6


def draw_attention(plain: Path, gta: Path, file: Path, compute: Compute) -> None:
    """Draw the CLS token's attention in the last block, maximum over heads, on test images.

    One image of every other class. Raises RunError if `file` cannot be written.
    """
    extractors = make_extractors(AttentionMapConfig(), ["demo", str(plain), str(gta)], compute)
    extractors = [
        replace(extractor, name=name)
        for extractor, name in zip(extractors, ("source", "plain", "GTA"), strict=True)
    ]
    files = MapFiles(None, colors="red")
    sheet = MapSheet(file, extractors, files, ROWS)
    for result in export_maps(extractors, islice(demo_images(), 0, None, 2), compute, files):
        if not isinstance(result, Failure):
            sheet.add(result)
    sheet.save()
