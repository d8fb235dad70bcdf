"""Tests of Object-DINO: its clusters of heads against the formula, its heads, its cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gtacli.discovery import head_clusters, object_dino
from gtacli.discovery.build import make_backend
from gtacli.discovery.head_clusters import cluster_heads, cluster_of
from gtacli.discovery.ncut import normalized_cut
from gtacli.errors import UsageError
from gtacli.models import load_model
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import attention


@pytest.fixture
def model(tiny_model: Path) -> LoadedModel:
    return load_model(str(tiny_model))


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_inner_products_are_those_of_the_standardized_maps(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_clusters, "_ROWS", 5)  # in pieces that do not divide the 16 patches
    gram = head_clusters._inner_products(model.model, images())
    qkv: dict[int, np.ndarray] = {}
    network: Any = model.model
    hooks = [
        block.attn.qkv.register_forward_hook(
            lambda _, __, out, i=i: qkv.update({i: out.detach().numpy()})
        )
        for i, block in enumerate(network.blocks)
    ]
    with torch.no_grad():
        network(images())
    for hook in hooks:
        hook.remove()
    expected = 0.0
    for image in range(2):
        rows = []
        for i in range(3):
            joint = qkv[i][image, 1:].reshape(16, 3, 3, 8)  # patches, q k v, heads, width
            for head in range(3):
                maps = []
                for part in range(3):
                    x = joint[:, part, head]
                    e = np.exp(x @ x.T / 8**0.5)
                    maps.append(e / e.sum(1, keepdims=True))
                rows.append(np.concatenate([m.ravel() for m in maps]))
        x = np.stack(rows).astype(np.float64)
        x = (x - x.mean(0)) / x.std(0)
        expected = expected + x @ x.T / 256
    np.testing.assert_allclose(gram, expected, atol=1e-2, rtol=1e-3)


def test_equal_heads_are_in_one_cluster(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = np.repeat(np.eye(3), 3, axis=0)
    monkeypatch.setattr(head_clusters, "_inner_products", lambda *_: places @ places.T)
    clusters = cluster_heads(model.model, [images()], 3)
    assert clusters == [[(i, 0), (i, 1), (i, 2)] for i in range(3)]
    assert cluster_of(clusters, 2) == [(2, 0), (2, 1), (2, 2)]


def test_cluster_with_most_heads_of_a_block() -> None:
    clusters = [[(0, 0), (2, 0)], [(0, 1), (1, 0), (2, 1), (2, 2)], [(1, 1)]]
    assert cluster_of(clusters, 2) == clusters[1]
    assert cluster_of([[(0, 0), (2, 0)], [(2, 1)]], 2) == [(2, 1)]  # of equal ones the smaller


def test_keys_of_the_heads_are_cut(model: LoadedModel) -> None:
    options = {"heads": "0.2,2.1", "tau": 0.1, "side": "center"}
    found = make_backend("object-dino", options, model).find(images())
    first, last = attention(model.model, images(), (0, 2), rows="all")
    keys = torch.cat([first.q_k[1][:, 2, 1:], last.q_k[1][:, 1, 1:]], dim=-1)
    cut = normalized_cut(keys, (4, 4), 0.1, side="center")
    assert torch.equal(found.maps, cut.map)
    assert found.masks is not None
    assert torch.equal(found.masks, cut.mask)


def test_choice_is_made_once(
    model: LoadedModel, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtacli.discovery import calibration

    monkeypatch.setattr(object_dino, "SCENES", 2)
    monkeypatch.setattr(calibration, "SCENES", 2)
    options = make_backend("object-dino", {"clusters": 4}, model).options
    assert options.heads
    assert any(name.startswith("2.") for name in options.heads)
    assert options.tau in calibration.TAUS
    monkeypatch.setattr(object_dino, "cluster_heads", lambda *_: pytest.fail("again"))
    assert make_backend("object-dino", {"clusters": 4}, model).options == options
    assert len(list((own_cache / "object-dino").iterdir())) == 1


@pytest.mark.parametrize("name", ["7", "3.0", "0.3", "a.b"])
def test_unknown_head(name: str, model: LoadedModel) -> None:
    options = {"heads": name, "tau": 0.1, "side": "seed"}
    with pytest.raises(UsageError, match=r"heads: .* is no head of this model"):
        make_backend("object-dino", options, model)
