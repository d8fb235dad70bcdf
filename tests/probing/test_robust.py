"""Tests of the robustness datasets: folder layouts, restricted classes, the shape bias."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from timm.data import ImageNetInfo

from gtacli import load_model
from gtacli.errors import UsageError
from gtacli.inference.stream import Failure
from gtacli.models.loading import LoadedModel
from gtacli.probing.robust import (
    SHAPE_CLASSES,
    ImageSet,
    RobustProbe,
    read_class_folders,
    read_cue_conflicts,
)
from gtacli.runtime.devices import choose_compute

CPU = choose_compute("cpu", "fp32")
SYNSETS = ImageNetInfo("imagenet1k").label_names()
TINY = {"embed_dim": 24, "depth": 1, "num_heads": 3, "img_size": 32, "patch_size": 8}


def saved(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=1000, **TINY)
    torch.nn.init.normal_(model.head.weight)  # so that the predictions differ
    folder.mkdir()
    metadata = {"architecture": "vit_tiny_patch16_224", "kwargs": json.dumps(TINY)}
    save_file(model.state_dict(), folder / "model.safetensors", {**metadata, "num_classes": "1000"})
    return folder


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    return load_model(str(saved(tmp_path / "imagenet-model")))


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def logits(model: LoadedModel, images: ImageSet) -> torch.Tensor:
    views = [model.preprocess(Image.open(image.path)) for image in images.images]
    with torch.no_grad():
        return model.model(torch.stack(views))


def test_numbered_folders_are_in_numerical_order(tmp_path: Path) -> None:
    """Sorted as text, 10 would come before 2."""
    for number in (0, 2, 10, 999):
        draw(tmp_path / str(number) / "a.png", number)
    found = read_class_folders("v2", tmp_path)
    assert [found.classes[label] for label in found.labels] == [SYNSETS[i] for i in (0, 2, 10, 999)]


@pytest.mark.parametrize("name", ["sketch", "r"])
def test_r_restricts_predictions_to_its_classes(
    model: LoadedModel, tmp_path: Path, name: str
) -> None:
    chosen = [SYNSETS[i] for i in (3, 400, 998)]
    for i in range(12):
        draw(tmp_path / "set" / chosen[i % 3] / f"{i}.png", i)
    images = read_class_folders(name, tmp_path / "set")
    probe = RobustProbe([model], images, CPU)
    assert [*probe.run(batch_size=5)] == [*range(12)]
    outputs = logits(model, images)
    if name == "r":
        expected = outputs[:, [SYNSETS.index(synset) for synset in images.classes]].argmax(1)
    else:  # of all thousand, so rarely one of the three
        best = [SYNSETS[i] for i in outputs.argmax(1).tolist()]
        expected = torch.tensor(
            [images.classes.index(b) if b in images.classes else -1 for b in best]
        )
    assert [*probe.predictions[0].values()] == expected.tolist()
    (result,) = probe.results()
    right = [a == b for a, b in zip(expected.tolist(), images.labels, strict=True)]
    assert result["top1"] == pytest.approx(np.mean(right))
    assert (result["n_test"], "shape_bias" in result) == (12, False)


def test_shape_bias_of_cue_conflicts(model: LoadedModel, tmp_path: Path) -> None:
    names = [
        f"{shape}{i}-{texture}{i + 1}"
        for i, (shape, texture) in enumerate(zip(SHAPE_CLASSES, [*SHAPE_CLASSES][3:], strict=False))
    ]
    names += ["cat1-cat2", "0001_s5n_s01_0_bird_00_bird3-clock2"]
    for seed, name in enumerate(names):
        draw(tmp_path / name.split("-")[0].rstrip("0123456789") / f"{name}.png", seed)
    draw(tmp_path / "cat" / "cat.png", 5)  # no such name
    draw(tmp_path / "cat" / "zebra1-cat2.png", 5)  # no class of the 16
    images = read_cue_conflicts(tmp_path)
    assert len(images.images) == len(names)
    other = load_model(str(saved(tmp_path / "other", 1)))
    probe = RobustProbe([model, other], images, CPU)
    assert len([*probe.run()]) == len(names)
    predicted = []
    assert images.textures is not None
    for network, predictions in zip((model, other), probe.predictions, strict=True):
        probabilities = logits(network, images).double().softmax(-1).numpy()
        by_hand = []
        for row in probabilities:
            means = []
            for ranges in SHAPE_CLASSES.values():
                ends = [part.split("-") for part in ranges.split(",")]
                members = [n for e in ends for n in range(int(e[0]), int(e[-1]) + 1)]
                means.append(row[members].mean())
            by_hand.append(int(np.argmax(means)))
        assert [*predictions.values()] == by_hand
        predicted.append(by_hand)
    result, second = probe.results()
    conflict = [(s, t) for s, t in zip(images.labels, images.textures, strict=True)]
    shape = sum(a == s for a, (s, t) in zip(predicted[0], conflict, strict=True) if s != t)
    texture = sum(a == t for a, (s, t) in zip(predicted[0], conflict, strict=True) if s != t)
    n = len(names) - 1
    assert (result["n_conflict"], result["by_shape"], result["by_texture"]) == (
        n, shape / n, texture / n,
    )  # fmt: skip
    assert shape + texture > 0
    assert result["shape_bias"] == shape / (shape + texture)
    expected = stats.binomtest(shape, shape + texture).proportion_ci(method="wilson")
    assert result["shape_bias_interval"] == pytest.approx([expected.low, expected.high])
    assert second["compared"]["top1"]["test"] == "McNemar"


def test_shape_classes_match_the_names_of_their_synsets() -> None:
    lemmas = ImageNetInfo("imagenet1k")
    for name, word in (("cat", "cat"), ("bear", "bear"), ("elephant", "elephant")):
        first = SHAPE_CLASSES[name].split("-")[0]
        assert word in lemmas.index_to_description(int(first)).lower()


def test_a_damaged_image_is_reported(model: LoadedModel, tmp_path: Path) -> None:
    draw(tmp_path / "set" / SYNSETS[0] / "a.png", 0)
    (tmp_path / "set" / SYNSETS[0] / "b.png").write_bytes(b"none")
    probe = RobustProbe([model], read_class_folders("sketch", tmp_path / "set"), CPU)
    (failed,) = (one for one in probe.run() if isinstance(one, Failure))
    assert "b.png: not an image" in failed.error
    assert probe.results()[0]["n_test"] == 1


def test_wrong_folders_are_refused(model: LoadedModel, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="imagenet_v2: no folder"):
        read_class_folders("v2", tmp_path / "away")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"sketch: .* holds no class folder with images"):
        read_class_folders("sketch", tmp_path / "empty")
    draw(tmp_path / "animals" / "dogs" / "a.png", 0)
    with pytest.raises(UsageError, match="dogs is not named after an ImageNet class"):
        read_class_folders("r", tmp_path / "animals")
    with pytest.raises(UsageError, match=r"holds no image named like cat1-elephant2\.png"):
        read_cue_conflicts(tmp_path / "animals")
    with pytest.raises(UsageError, match="cue_conflict: no folder"):
        read_cue_conflicts(tmp_path / "away")
    draw(tmp_path / "sketch" / SYNSETS[5] / "a.png", 0)
    draw(tmp_path / "cues" / "cat1-dog2.png", 0)
    small = load_model(str(tiny_model))
    for images in (
        read_class_folders("a", tmp_path / "sketch"),
        read_cue_conflicts(tmp_path / "cues"),
    ):
        with pytest.raises(UsageError, match="has no classifier for ImageNet's classes"):
            RobustProbe([small], images, CPU)
