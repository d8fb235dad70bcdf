"""Tests of the faithfulness probe on a network whose answer rests on one patch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gtacli.data.inputs import InputImage
from gtacli.inference.attention_maps.base import AttentionMap
from gtacli.models import load_model
from gtacli.models.loading import LoadedModel
from gtacli.probing.faithfulness import FaithfulnessProbe
from gtacli.runtime.devices import choose_compute

GRID = (4, 4)


class BrightPatch(nn.Module):
    """Two classes by the brightness of a part of one patch."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        bright = images[:, :, 8:16, 16:24].mean((1, 2, 3)) * 20
        return torch.stack((bright, -bright), 1)


def fixed(values: Tensor) -> Any:
    return lambda images: [AttentionMap(0, None, values.expand(len(images), *GRID))]


@pytest.fixture
def model() -> LoadedModel:
    loaded = load_model("vit_tiny_patch16_224@none", image_size=(64, 64))
    object.__setattr__(loaded, "model", BrightPatch())
    return loaded


@pytest.fixture
def images(tmp_path: Path) -> list[InputImage]:
    """Three black images, bright in the patch; and a file that is none."""
    named = []
    for i in range(3):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[8:16, 16:24] = 200 + 20 * i
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        named.append(InputImage(str(tmp_path / f"{i}.png"), tmp_path / f"{i}.png"))
    (tmp_path / "bad.png").write_text("no image")
    return [*named, InputImage("bad.png", tmp_path / "bad.png")]


def probe_of(model: LoadedModel, **options: Any) -> FaithfulnessProbe:
    right = torch.zeros(GRID)
    right[0, 1] = 1  # patches have 16 pixels: this one holds the rows 8:16 and the columns 16:24
    given = {"right": fixed(right), "wrong": fixed(-right)}
    settings = {"fill": "mean", "steps": 4, "compute": choose_compute("cpu", "fp32"), **options}
    return FaithfulnessProbe(model, given, **settings)


def test_a_map_of_what_the_answer_rests_on_beats_its_opposite(
    model: LoadedModel, images: list[InputImage]
) -> None:
    probe = probe_of(model)
    seen = [type(result).__name__ for result in probe.run(images)]
    assert seen == ["InputImage"] * 3 + ["Failure"]
    results = {result["kind"]: cast(Any, result) for result in probe.results()}
    assert list(results) == ["right", "wrong", "random", "center"]
    right, wrong = results["right"], results["wrong"]
    assert right["n_images"] == 3
    assert right["fractions"] == [0, 0.25, 0.5, 0.75, 1]
    whole, empty = right["insertion_curve"][-1], right["insertion_curve"][0]
    assert whole > 0.99 > empty
    # All that matters is kept from the first step on, or removed at it.
    np.testing.assert_allclose(right["insertion_curve"][1:], whole, atol=1e-3)
    np.testing.assert_allclose(right["deletion_curve"][1:], empty, atol=1e-3)
    assert right["insertion"] == pytest.approx(whole - (whole - empty) / 8, abs=1e-3)
    assert right["gap"] == pytest.approx(right["insertion"] - right["deletion"])
    assert wrong["gap"] == pytest.approx(-right["gap"], abs=1e-3)
    low, high = right["insertion_interval"]
    assert low <= right["insertion"] <= high
    test, mirrored = right["against"]["wrong"]["gap"], wrong["against"]["right"]["gap"]
    assert test["difference"] == pytest.approx(2 * right["gap"], abs=1e-3)
    assert (mirrored["low"], mirrored["high"]) == (-test["high"], -test["low"])


def test_of_several_labels_each_has_a_probability_of_its_own(
    model: LoadedModel, tmp_path: Path
) -> None:
    Image.fromarray(np.full((64, 64, 3), 140, np.uint8)).save(tmp_path / "gray.png")
    probe = probe_of(replace(model, multi_label=True))
    list(probe.run([InputImage(str(tmp_path / "gray.png"), tmp_path / "gray.png")]))
    logit = (140 / 255 - 0.5) / 0.5 * 20  # of the network, whose input is normalized so
    curve = cast(Any, probe.results()[0])["insertion_curve"]
    assert curve[-1] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)  # softmax: 0.98


def test_batches_and_threads_change_nothing(model: LoadedModel, images: list[InputImage]) -> None:
    results = []
    for batch, threads in ((1, 0), (2, 2), (8, 0)):
        probe = probe_of(model, fill="blur")
        list(probe.run(images, batch, threads))
        results.append(np.stack(probe.areas))
    np.testing.assert_allclose(results[1:], results[:1] * 2, rtol=1e-6)


def test_no_image_gives_no_results(model: LoadedModel) -> None:
    assert probe_of(model).results() == []
