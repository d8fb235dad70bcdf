"""Tests of map sources, online k-NN and previews."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gtacli.config.pretrain import PretrainConfig
from gtacli.data import load_dataset
from gtacli.data.loader import Batch
from gtacli.discovery.maps import MapCache
from gtacli.images.decode import load
from gtacli.images.preprocessing import make_eval_view
from gtacli.models.loading import load_model
from gtacli.pretraining.map_source import CachedMaps, OnlineMaps
from gtacli.pretraining.online_knn import OnlineKnn
from gtacli.pretraining.prepare import prepare
from gtacli.pretraining.previews import Previews
from gtacli.pretraining.run import fill_batch
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE

Make = Callable[..., PretrainConfig]
CPU = Compute(torch.device("cpu"), torch.float32)


def batch_of(indices: list[int]) -> Batch:
    n = len(indices)
    shown = torch.rand(n, 5, generator=torch.Generator().manual_seed(0))
    pixels = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)
    return Batch(pixels, torch.zeros(n).long(), torch.tensor(indices, dtype=torch.int64), shown)


def test_each_view_gets_the_map_of_its_image(
    tiny_data: Path, maps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = load_dataset(str(tiny_data))["train"]
    guide = CachedMaps(maps, "dino", records, 3, ALONE)
    assert "2 of 18 images have no map" in caplog.text
    batch = batch_of([5 * 3 + 2, 0, 17 * 3, 5 * 3])
    found, shown = guide.maps(batch)
    cache = MapCache(maps)
    for got, place in zip(found.numpy(), [5, 0, 17, 5], strict=True):
        own = cache.find(records[place].source.read_bytes())
        assert np.array_equal(got, np.zeros((3, 5)) if own is None else own)
    assert not found[1].any()
    assert found[0].any()
    assert torch.equal(shown, batch.crops)
    assert guide.maps(batch_of([]))[0].shape == (0, 3, 5)


def test_fingerprint_of_cached_maps_covers_used_maps(tiny_data: Path, maps: Path) -> None:
    records = load_dataset(str(tiny_data))["train"]
    prints = [CachedMaps(maps, "", part, 1, ALONE).fingerprint for part in (records, records[1:])]
    assert prints[0] != prints[1]
    assert prints[0] == CachedMaps(maps, "", records, 4, ALONE).fingerprint


def test_teacher_gets_the_view_at_its_own_size(tiny_model: Path) -> None:
    teacher = load_model(str(tiny_model), image_size=(48, 32))
    guide = OnlineMaps(teacher, "dino", {"heads": "mean"}, CPU)
    batch = batch_of([0, 1])
    maps, shown = guide.maps(batch)
    assert maps.shape == (2, 6, 4)
    assert shown.tolist() == [[0, 0, 1, 1, 0]] * 2
    resized = F.interpolate(batch.images.float(), (48, 32), mode="bilinear", antialias=True)
    expected = guide.backend.find(resized / 127.5 - 1).maps
    torch.testing.assert_close(maps, expected)
    assert guide.maps(batch_of([]))[0].shape[0] == 0


def test_online_knn_matches_votes(config: Make, tiny_data: Path) -> None:
    job = prepare(config(), ALONE)
    assert job.listed is not None
    knn = OnlineKnn(job, job.listed)
    assert (len(knn.keys), len(knn.queries)) == (15, 3)
    assert not {r.key for r in knn.keys} & {r.key for r in knn.queries}

    def feature(record: Any) -> torch.Tensor:
        """Compute the feature with the network itself."""
        encoder = job.encoder
        pixels = torch.from_numpy(load(record.source, (40, 40), "bicubic")).permute(2, 0, 1)
        view = make_eval_view(pixels, encoder.image_size, encoder.crop_pct, "bicubic")
        x = (view[None].float() / 255 - torch.tensor(encoder.mean).view(3, 1, 1)) / torch.tensor(
            encoder.std
        ).view(3, 1, 1)
        with torch.no_grad():
            return F.normalize(encoder.model(x), dim=1)[0].double()

    right = 0
    for query in knn.queries:
        votes = [0.0] * 3
        for key in knn.keys:  # all are among the 20 nearest
            votes[key.label] += float(torch.exp(feature(query) @ feature(key) / 0.07))
        right += votes.index(max(votes)) == query.label
    assert knn() == pytest.approx(right / 3)


def test_previews_show_the_original_pixels(config: Make, maps: Path) -> None:
    job = prepare(config(maps=maps, norm_pix=False), ALONE)
    previews = Previews(job)
    images = job.encoder.view(CPU.device)(previews.batch.images)
    assert torch.equal(previews._pixels(images), previews.batch.images)
    sheet = previews.draw(0)
    assert sheet.size == Previews(job).draw(0).size
    assert sheet.tobytes() == previews.draw(0).tobytes()


def test_short_batch_is_filled_with_its_own_images() -> None:
    short = batch_of([4, 7])
    filled = fill_batch(short, 5)
    assert filled.indices.tolist() == [4, 7, 4, 7, 4]
    assert torch.equal(filled.images[2], short.images[0])
    assert fill_batch(short, 2) is short
    assert not len(fill_batch(batch_of([]), 3).images)
