"""Fixtures of the pre-training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtacli.config.pretrain import PretrainConfig
from gtacli.data import load_dataset
from gtacli.discovery.maps.digests import digest
from gtacli.discovery.maps.manifest import MapManifest
from gtacli.discovery.maps.writer import MapWriter
from gtacli.images.decode import read_bytes

Make = Callable[..., PretrainConfig]


@pytest.fixture
def config(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Make:
    """Return a function that creates the config of two epochs of four batches, with changes."""

    def make(**changes: Any) -> PretrainConfig:
        values = {
            "model": str(tiny_model),
            "data": str(tiny_data),
            "out": tmp_path / "run",
            "epochs": 2,
            "batch_size": 4,
            "lr": 1e-3,
            "decoder_dim": 16,
            "decoder_depth": 2,
            "decoder_heads": 2,
            "device": "cpu",
            "workers": 0,
        }
        return PretrainConfig(**{**values, **changes})

    return make


@pytest.fixture
def maps(tiny_data: Path, tmp_path: Path) -> Path:
    """Write a cache of 3 x 5 maps of back-end "dino" for all images but the first two."""
    manifest = MapManifest(
        model="a model",
        fingerprint="0" * 64,
        backend="dino",
        backend_version=1,
        options={},
        image_size=(24, 40),
        interpolation="bicubic",
        mean=(0.5,),
        std=(0.5,),
        precision="fp32",
        grid=(3, 5),
    )
    records = [record for _, record in load_dataset(str(tiny_data)).records()][2:]
    digests = [digest(read_bytes(record.path)) for record in records]
    found = np.random.default_rng(0).integers(0, 256, (len(records), 3, 5), dtype=np.uint8)
    cache = MapWriter(tmp_path / "maps", manifest, len(records))
    for content in digests:
        cache.enter(content, None)
    cache.add(digests, found)
    cache.end_block(True)
    cache.close(True)
    return cache.folder
