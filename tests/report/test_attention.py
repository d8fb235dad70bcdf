"""Attention maps and predictions of one model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gtacli import attention, load_model
from gtacli.models.loading import LoadedModel
from gtacli.report.attention import compute_maps, eval_transform
from gtacli.runtime.devices import choose_compute

CPU = choose_compute("cpu", "fp32")


def views_of(model: LoadedModel, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = (count, 3, *model.image_size)
    return [*torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)]


def test_maps_and_predictions_equal_those_of_the_plain_network(tiny_model: Path) -> None:
    views = views_of(load_model(str(tiny_model)), 3)
    plain = load_model(str(tiny_model))
    images = plain.view(CPU.device)(torch.stack(views))
    with torch.no_grad():
        cls = torch.stack([tap.maps() for tap in attention(plain.model, images, "all")], 1)
        every = attention(plain.model, images, "all", rows="all")
        rows = torch.stack([t.logits.double().softmax(-1).mean(1)[:, 1:, 1:] for t in every], 1)
        best = plain.model(images).softmax(-1).max(-1)

    result = compute_maps(load_model(str(tiny_model)), views, CPU, classes=7, batch_size=2)
    np.testing.assert_allclose(result.maps, cls.numpy(), atol=1e-4)
    np.testing.assert_allclose(result.rows, rows[:, -1].numpy(), atol=1e-4)
    assert len(result.deep) == 0
    for images_deep in (1, 2, 3):  # of batches of two
        room = images_deep * 3 * 16**2
        some = compute_maps(
            load_model(str(tiny_model)), views, CPU, 7, deep_values=room, batch_size=2
        ).deep
        np.testing.assert_allclose(some, rows[:images_deep].numpy(), atol=1e-4)
    assert [number for number, _ in result.predictions] == best.indices.tolist()
    assert [p for _, p in result.predictions] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert compute_maps(load_model(str(tiny_model)), views, CPU, classes=0).predictions == []


def test_resampling_a_fine_grid_preserves_the_attention(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), image_size=(8 * 28, 8 * 12))
    views = views_of(model, 1)
    images = model.view(CPU.device)(torch.stack(views))
    with torch.no_grad():
        full = attention(model.model, images)[0].maps()[0].numpy()
        rows = attention(model.model, images, rows="all")[0].logits.softmax(-1)[0].mean(0)[1:, 1:]

    result = compute_maps(model, views, CPU, classes=0)
    assert result.grid == (14, 12)
    np.testing.assert_allclose(result.maps[0, -1].sum((-1, -2)), full.sum((-1, -2)), rtol=0.02)
    # The halves of the image keep their attention.
    halves = result.maps[0, -1].reshape(3, 2, -1).sum(-1)
    np.testing.assert_allclose(halves, full.reshape(3, 2, -1).sum(-1), rtol=0.03)
    # A query on the coarse grid is approximately the mean of the queries that it replaces.
    fine = rows.unflatten(0, (28, 12)).movedim((0, 1), (-2, -1))
    coarse = F.avg_pool2d(fine, (2, 1)).flatten(-2).sum(0)  # attention of each query
    np.testing.assert_allclose(result.rows[0].astype(np.float32).sum(-1), coarse, rtol=0.03)


def test_transform_is_the_one_of_evaluation(tiny_model: Path) -> None:
    model = load_model(str(tiny_model))
    transform = eval_transform(model)
    assert (transform.image_size, transform.crop_pct) == (model.image_size, model.crop_pct)
