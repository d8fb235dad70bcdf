"""The outputs of a graph, against the plain formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import set_fused_attn

from gtacli.models.exporters.card import ExportCard
from gtacli.models.exporters.graph import ExportGraph, trace
from gtacli.models.loading import LoadedModel
from gtacli.testing.inputs import drawn_images, loaded, tiny_vit

ALL: Any = ("embedding", "box", "attention", "probabilities")


def card_of(model: LoadedModel, **changes: Any) -> ExportCard:
    return ExportCard.model_validate(
        {
            "outputs": ALL,
            "image_size": model.image_size,
            "mean": model.mean,
            "std": model.std,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "temperature": 1.7,
            **changes,
        }
    )


def plain_row(model: Any, images: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the last block's attention of the CLS token (B, H, P+N), by a hook on its softmax."""
    set_fused_attn(False)
    try:
        rows: list[torch.Tensor] = []
        attn = model.blocks[-1].attn
        attn.fused_attn, before = False, attn.fused_attn
        handle = attn.attn_drop.register_forward_hook(lambda m, i, out: rows.append(out[:, :, 0]))
        with torch.no_grad():
            model(images)
        handle.remove()
        attn.fused_attn = before
    finally:
        set_fused_attn(True)
    return rows[0].numpy()


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("heads", ["max", "mean"])
def test_the_outputs_are_those_of_the_formulas(registers: int, heads: str) -> None:
    model = loaded(tiny_vit(reg_tokens=registers))
    images = drawn_images(3)
    graph = ExportGraph(model, card_of(model, heads=heads))
    with torch.no_grad():
        embedding, box, attention, probabilities = graph(images)
        logits = model.model(images).numpy()
        tokens = model.model.forward_features(images).numpy()  # type: ignore[operator]
    exponent = np.exp(logits / 1.7)
    assert probabilities.numpy() == pytest.approx(exponent / exponent.sum(1, keepdims=True), 1e-5)
    assert embedding.numpy() == pytest.approx(tokens[:, 0], abs=1e-5)
    row = plain_row(model.model, images)[:, :, 1 + registers :].reshape(3, 3, 4, 4)
    plain = row.max(1) if heads == "max" else row.mean(1)
    assert attention.numpy() == pytest.approx(plain, abs=1e-6)
    for one, found in zip(plain, box.tolist(), strict=True):
        order, held = np.argsort(-one.ravel()), 0.0
        inside = np.zeros(16, bool)
        for patch in order:
            if held >= 0.6 * one.sum():
                break
            inside[patch], held = True, held + one.ravel()[patch]
        rows, columns = np.nonzero(inside.reshape(4, 4))
        assert found == [8 * columns.min(), 8 * rows.min(), 8 * columns.max() + 8,
                         8 * rows.max() + 8]  # fmt: skip


@pytest.mark.slow
def test_a_traced_graph_with_pixels_is_the_network_for_images_of_any_size() -> None:
    model = loaded(tiny_vit())
    graph = ExportGraph(model, card_of(model, pixels=True))
    generator = torch.Generator().manual_seed(0)

    def pixels(*size: int) -> torch.Tensor:
        return torch.randint(256, size, dtype=torch.uint8, generator=generator)

    traced = trace(graph, pixels(2, 3, 50, 70)).module()
    for size in ((1, 3, 44, 30), (3, 3, 90, 90)):
        images = pixels(*size)
        with torch.no_grad():
            for ours, theirs in zip(traced(images), graph(images), strict=True):
                assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_model_without_cls_has_the_mean_of_its_patches() -> None:
    model = loaded(tiny_vit(class_token=False, global_pool="avg"))
    model = replace(model, num_prefix_tokens=0)
    names: Any = ("probabilities", "embedding")
    graph = ExportGraph(model, card_of(model, outputs=names, features="mean", temperature=1.0))
    images = drawn_images(2)
    with torch.no_grad():
        probabilities, embedding = graph(images)
        wanted = model.model(images).softmax(-1)
        tokens = model.model.forward_features(images)  # type: ignore[operator]
        pooled = model.model.fc_norm(tokens.mean(1))  # type: ignore[operator]
    assert torch.allclose(probabilities, wanted, atol=1e-6)
    assert torch.allclose(embedding, pooled, atol=1e-5)
