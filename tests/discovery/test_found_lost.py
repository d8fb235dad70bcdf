"""Tests of FOUND's background seed and of LOST against their formulas, one image at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from gtacli.config.base import build
from gtacli.discovery.build import make_backend
from gtacli.discovery.found import background_likeness
from gtacli.discovery.lost import expansion
from gtacli.errors import UsageError
from gtacli.models import load_model
from gtacli.models.tap import Tap
from gtacli.registry import DISCOVERY

GRID = (5, 7)


def tap(seed: int, prefix: int = 2) -> Tap:
    """Return a tap of 3 images, 4 heads of width 6."""
    g = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(3, 4, prefix + 35, 6, generator=g) for _ in range(2))
    return Tap(0, GRID, prefix, 6**-0.5, q=q, k=k)


@pytest.mark.parametrize("seed", range(4))
def test_background_of_found(seed: int) -> None:
    one = tap(seed)
    likeness = background_likeness(one)
    q, k = one.q_k
    for i in range(3):
        logits = np.einsum("hd,hpd->hp", q[i, :, 0], k[i]) / 6**0.5
        a = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        a = a[:, 2:]
        share = (a > a.mean()).mean(1)
        beta = np.log(share.sum() / share)
        least = int((beta[:, None] * a).sum(0).argmin())
        f = np.concatenate([beta[h] * k[i, h, 2:].numpy() for h in range(4)], axis=1)
        cos = f @ f[least] / np.linalg.norm(f, axis=1) / np.linalg.norm(f[least])
        np.testing.assert_allclose(likeness[i].numpy(), cos, atol=1e-5)
        assert likeness[i, least] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("tau", "k"), [(0.0, 10), (0.0, 35), (0.2, 6), (0.1, None)])
def test_expansion_of_lost(tau: float, k: int | None) -> None:
    """At tau 0 the products are those of the paper; above, cosines minus tau times both lengths."""
    keys = torch.randn(3, 35, 8, generator=torch.Generator().manual_seed(7))
    likeness, seeds = expansion(keys, tau, k)
    for i, f in enumerate(keys.double().numpy()):
        length = np.linalg.norm(f, axis=1)
        products = f @ f.T - tau * np.outer(length, length)
        degree = [sum(products[p, q] > 0 for q in range(35) if q != p) for p in range(35)]
        order = np.argsort(degree, kind="stable")[: 35 // 8 if k is None else k]
        seed = order[0]
        assert int(seeds[i]) == seed
        chosen = [p for p in order if products[p, seed] > 0]
        expected = products[chosen].sum(0)
        np.testing.assert_allclose(likeness[i].numpy(), expected, atol=1e-3)


def test_object_of_lost_is_the_component_of_the_seed(tiny_model: Any) -> None:
    model = load_model(str(tiny_model))
    options = {"layer": 1, "tau": 0.0, "k": 6}
    found = make_backend("lost", options, model).find(
        torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    )
    assert found.masks is not None
    assert found.boxes is not None
    for mask, box in zip(found.masks.numpy(), found.boxes.tolist(), strict=True):
        assert mask.any()
        assert ndimage.label(mask)[1] == 1
        rows, columns = np.nonzero(mask)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("name", ["found", "lost"])
@pytest.mark.usefixtures("own_cache")
def test_auto_is_chosen_on_drawn_scenes(name: str, tiny_model: Any, monkeypatch: Any) -> None:
    from gtacli.discovery import calibration

    monkeypatch.setattr(calibration, "FIRST", 2)
    monkeypatch.setattr(calibration, "SCENES", 3)
    model = load_model(str(tiny_model))
    options = make_backend(name, {}, model).options
    assert options.layer in range(3)
    assert options.tau in calibration.TAUS
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    again = make_backend(name, options.model_dump(), model)
    found = again.find(images)
    alone = [again.find(image[None]).maps for image in images]
    torch.testing.assert_close(found.maps, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "tau"), [("found", 0.3), ("lost", 0.0)])
def test_dinos_weights_use_the_published_values(name: str, tau: float, tiny_model: Any) -> None:
    from dataclasses import replace

    model = load_model(str(tiny_model))
    official = replace(model, report=replace(model.report, layout="DINO"))
    options = make_backend(name, {}, official).options
    assert (options.layer, options.tau) == (-1, tau)
    if name == "lost":
        assert options.k == 100


@pytest.mark.parametrize("name", ["found", "lost"])
def test_unresolved_options(name: str, tiny_model: Any) -> None:
    part = DISCOVERY.load(name)
    with pytest.raises(UsageError, match=f"of {name} are auto"):
        part(build(part.Options, {}, "x"), load_model(str(tiny_model)).model)
