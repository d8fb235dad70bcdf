"""Tests of the background probe: against one image at a time, and by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from gtacli import load_model
from gtacli.data.base import Record
from gtacli.data.inputs import InputImage
from gtacli.errors import UsageError
from gtacli.inference.stream import Failure
from gtacli.models.loading import LoadedModel
from gtacli.probing.backgrounds.metrics import (
    VariantPredictions,
    background_metrics,
    compare_predictions,
)
from gtacli.probing.backgrounds.probe import BackgroundProbe
from gtacli.probing.backgrounds.sources import FolderVariants, MaskedImageVariants
from gtacli.probing.backgrounds.variants import VARIANTS, ImageScenes, Variant, draw_variants
from gtacli.probing.class_map import ClassMap, match_outputs, read_class_map
from gtacli.runtime.devices import choose_compute

CPU = choose_compute("cpu", "fp32")
CLASSES = [f"class {i}" for i in range(7)]


@pytest.fixture
def model(tiny_model: Path) -> LoadedModel:
    loaded = load_model(str(tiny_model))
    with torch.no_grad():  # an untrained head would always predict the same class
        loaded.model.head.weight.mul_(50)  # type: ignore[union-attr, operator]
    return loaded


@pytest.fixture
def scenes(tmp_path: Path) -> ImageScenes:
    """Ten images of seven classes; the last one has no object."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(10):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 10:25] = 255 * (i < 9)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image, of_object = tmp_path / f"{i}.png", tmp_path / f"{i}.mask.png"
        Image.fromarray(pixels).save(image)
        Image.fromarray(mask).save(of_object)
        record = Record(f"{i}.png", i % 7, image, of_object)
        found.append(InputImage(str(image), PurePath(f"{i}.png"), record))
    return ImageScenes(found)


def run_model(model: LoadedModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and features of one image."""
    view = model.preprocess(Image.fromarray(pixels.permute(1, 2, 0).numpy()))[None]
    network: Any = model.model
    with torch.no_grad():
        return network(view)[0], network.forward_features(view)[0, 0]


def test_every_metric_against_one_image_at_a_time(model: LoadedModel, scenes: ImageScenes) -> None:
    probe = BackgroundProbe([model, model], [ClassMap(torch.arange(7)), None], CPU)
    done = [*probe.run(MaskedImageVariants(scenes, CLASSES, seed=3), batch_size=5)]
    assert sum(n for n in done if isinstance(n, int)) == 9 * len(VARIANTS)
    hits, same, cosines = dict.fromkeys(VARIANTS, 0), 0, []
    for index, drawn in draw_variants(scenes, seed=3):
        outputs = {name: run_model(model, pixels) for name, pixels in drawn.items()}
        for name, (logits, _) in outputs.items():
            hits[name] += int(logits.argmax()) == index % 7
        before, after = outputs["original"], outputs["mixed-rand"]
        same += int(before[0].argmax()) == int(after[0].argmax())
        cosines.append(float(torch.cosine_similarity(before[1], after[1], dim=0)))
    assert len(set(hits.values())) > 1
    result = background_metrics(probe.predictions[0])
    assert (result["n_test"], result["n_pairs"], probe.skipped) == (9, 9, 1)
    for name, shown in result["variants"].items():
        expected = stats.binomtest(hits[name], 9).proportion_ci(method="wilson")
        assert shown == {
            "top1": hits[name] / 9,
            "top1_interval": pytest.approx([expected.low, expected.high]),
            "n": 9,
        }
    assert result["bg_gap"] == pytest.approx((hits["mixed-same"] - hits["mixed-rand"]) / 9)
    low, high = result["bg_gap_interval"]
    assert low <= result["bg_gap"] <= high
    assert result["survives"] == "class"
    assert result["fg_consistency"] == same / 9
    assert result["cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    students = stats.ttest_1samp(cosines, 0).confidence_interval()
    assert result["cosine_interval"] == pytest.approx([*students], abs=1e-5)
    unknown = background_metrics(probe.predictions[1])
    assert (unknown["variants"], unknown["bg_gap"]) == (None, None)
    assert unknown["fg_consistency"] == result["fg_consistency"]
    differences = compare_predictions(probe.predictions[1], probe.predictions[0])
    assert {name: (d.difference, d.p) for name, d in differences.items()} == {
        "fg_consistency": (0, 1),
        "cosine": (0, 1),
    }


def predictions_of(**correct: list[bool]) -> VariantPredictions:
    by_variant: dict[Any, dict[str, bool]] = {
        name.replace("_", "-"): {str(i): value for i, value in enumerate(values)}
        for name, values in correct.items()
    }
    return VariantPredictions(correct=by_variant)


def test_differences_between_models_are_paired() -> None:
    first = predictions_of(mixed_same=[True] * 8 + [False] * 2, mixed_rand=[True] * 4 + [False] * 6)
    second = predictions_of(mixed_same=[True] * 10, mixed_rand=[True] * 10)
    found = compare_predictions(second, first)
    assert found["mixed-rand"].difference == pytest.approx(0.6)
    assert found["mixed-rand"].p == pytest.approx(stats.binomtest(6, 6).pvalue)
    assert found["mixed-rand"].test == "McNemar"
    assert found["bg_gap"].difference == pytest.approx(0 - 0.4)
    # the gaps differ on four images, all in the same direction
    assert found["bg_gap"].p == pytest.approx(2 / 2**4, abs=0.01)
    other_images = predictions_of(mixed_same=[True] * 3, mixed_rand=[False] * 4)
    assert background_metrics(other_images)["bg_gap_interval"] is not None
    assert "bg_gap" not in compare_predictions(other_images, first)


@pytest.mark.parametrize("count", [1, 4])
def test_the_same_class_and_the_same_neighbor_are_not_compared(count: int) -> None:
    features = torch.eye(5)[:count]
    of_image = {str(i): one for i, one in enumerate(features)}
    headless = VariantPredictions(features={"original": of_image, "mixed-rand": of_image})
    top = {str(i): i for i in range(count)}
    classifier = replace(headless, top_class={"original": top, "mixed-rand": top})
    for pair in ((headless, classifier), (classifier, headless)):
        assert [*compare_predictions(*pair)] == ["cosine"]


def test_nearest_images_of_a_model_without_a_classifier() -> None:
    """Features on a circle, by their angles."""
    angles = {"original": [0, 10, 100, 120, 125], "mixed-rand": [8, 60, 90, 121, 30]}

    def at(degrees: float) -> torch.Tensor:
        turned = torch.tensor(degrees).deg2rad()
        return 3 * torch.stack([turned.cos(), turned.sin()])

    features = {n: {str(i): at(a) for i, a in enumerate(of)} for n, of in angles.items()}
    predictions = VariantPredictions(features=features)  # type: ignore[arg-type]
    # 0: 1 and still 1. 1: 0; at 60 the nearest other is 2. 2: 3 (at 90 too, 1 is farther).
    # 3: 4 and still 4. 4: 3; at 30 it is 1.
    result = background_metrics(predictions)
    assert (result["survives"], result["n_pairs"]) == ("neighbour", 5)
    assert result["fg_consistency"] == pytest.approx(3 / 5)
    apart = np.deg2rad([8, 50, 10, 1, 95])
    assert result["cosine"] == pytest.approx(np.cos(apart).mean(), abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_metrics_of_few_images(count: int) -> None:
    names: list[Variant] = ["original", "mixed-rand"]
    features = {n: {str(i): torch.tensor([1.0, i]) for i in range(count)} for n in names}
    result = background_metrics(VariantPredictions(features=features))
    assert result["n_pairs"] == count
    assert result["fg_consistency"] == (1 if count == 2 else None)
    assert result["fg_consistency_interval"] is None or count == 2
    assert background_metrics(VariantPredictions())["cosine"] is None


def in9(root: Path, spread: dict[str, dict[str, list[str]]], inner: str = "val") -> Path:
    """{variant: {class: names}}, the color of an image is its class's number."""
    for variant, by_class in spread.items():
        for name, files in by_class.items():
            folder = root / variant / inner / name
            folder.mkdir(parents=True)
            for file in files:
                color = (20 * int(name[:2]), 0, 0)
                Image.new("RGB", (32, 32), color).save(folder / file)
    return root


FIRST, SECOND, GROUND = "n02085936_10011", "n02085936_2", "n07747607_33"


@pytest.mark.parametrize("inner", ["val", "."])
def test_folders_of_imagenet_9(tmp_path: Path, inner: str) -> None:
    spread = {
        "original": {"00_dog": [f"{FIRST}.JPEG"], "05_insect": [f"{SECOND}.JPEG"]},
        "mixed_rand": {
            "00_dog": [f"fg_{FIRST}_bg_{GROUND}.JPEG"],
            "05_insect": [f"fg_{SECOND}_bg_{GROUND}.JPEG"],
        },
        "only_fg": {"00_dog": ["a.png", "a.jpg"], "05_insect": []},
        "fg_mask": {"00_dog": ["a.png"]},
    }
    source = FolderVariants(in9(tmp_path, spread, inner))
    drawn = [one for i in range(len(source.images)) for one in source.draw(i)]
    assert source.classes == ["00_dog", "", "", "", "", "05_insect"]
    assert [(one.variant, one.label) for one in drawn] == [
        ("original", 0), ("original", 5), ("only-fg", 0), ("only-fg", 0),
        ("mixed-rand", 0), ("mixed-rand", 5),
    ]  # fmt: skip
    assert [one.key for one in drawn[:2]] == [one.key for one in drawn[4:]]
    assert len({one.key for one in drawn[2:4]}) == 2  # the same name with two suffixes
    assert int(drawn[1].pixels[0, 0, 0]) == 100


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        FolderVariants(tmp_path / "away")
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="holds none of the folders original"):
        FolderVariants(tmp_path)
    in9(tmp_path, {"original": {"00_dog": ["a.png"]}, "no_fg": {"00_dog": []}})
    with pytest.raises(UsageError, match=r"no_fg holds no image"):
        FolderVariants(tmp_path)
    (tmp_path / "only_bg_t").mkdir()
    with pytest.raises(UsageError, match="only_bg_t holds no class folder"):
        FolderVariants(tmp_path)


def test_a_damaged_image_is_reported_and_the_others_are_processed(
    model: LoadedModel, tmp_path: Path
) -> None:
    root = in9(tmp_path, {"original": {"00_dog": ["a.png", "b.png"], "01_bird": ["c.png"]}})
    (root / "original/val/00_dog/a.png").write_bytes(b"no image")
    probe = BackgroundProbe([model], [ClassMap(torch.arange(7))], CPU)
    done = [*probe.run(FolderVariants(root), batch_size=1)]
    (failed,) = (one for one in done if isinstance(one, Failure))
    assert "a.png: not an image" in failed.error
    assert background_metrics(probe.predictions[0])["n_test"] == 2


def test_a_mapping_file_maps_outputs_to_classes(model: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "in_to_in9.json"
    mapping = {"0": 1, "1": -1, "2": 0, "3": 0, "4": -1, "5": -1, "6": 1}
    file.write_text(json.dumps(mapping))
    class_map = read_class_map(model, file, ["dog", "bird"])
    assert class_map(torch.eye(7)).tolist() == [*mapping.values()]
    restricted = ClassMap(class_map.class_of_output, restrict=True)
    logits = torch.tensor([[0.0, 9, 0, 2, 8, 7, 1]])
    assert (class_map(logits).item(), restricted(logits).item()) == (-1, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "it is not JSON"),
        ("[1, 2]", "is not an object from output to class"),
        ("{}", "is not an object from output to class"),
        ('{"dog": 1}', "is not an object.*invalid literal"),
        ('{"0": "dog"}', "'dog' is no class"),
        ('{"0": -2}', "-2 is no class"),
        ('{"0": 1, "1": 0}', "maps 2 outputs, but .* has 7"),
        (json.dumps(dict.fromkeys(map(str, range(7)), -1)), "maps no output to any"),
    ],
)
def test_wrong_mapping_files_are_refused(
    model: LoadedModel, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "mapping.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_class_map(model, file, ["dog", "bird"])
    with pytest.raises(UsageError, match="no such file"):
        read_class_map(model, tmp_path / "away.json", ["dog"])


def test_outputs_are_matched_by_name_or_in_order(tiny_model: Path) -> None:
    plain = load_model(str(tiny_model))
    by_number = match_outputs(plain, CLASSES)
    assert by_number is not None
    assert by_number.class_of_output.tolist() == [*range(7)]
    assert match_outputs(plain, CLASSES[:3]) is None
    named = load_model(str(tiny_model))
    object.__setattr__(named, "classes", tuple(reversed(CLASSES)))
    by_name = match_outputs(named, ["class 5", "", "class 1"], restrict=True)
    assert by_name is not None
    assert by_name.class_of_output.tolist() == [-1, 0, -1, -1, -1, 2, -1]
    assert by_name.restrict
    assert match_outputs(named, ["class 5", "zebra"]) is None
    assert (
        match_outputs(load_model(f"{tiny_model}", num_classes=3), CLASSES[:3]) is None
    )  # an untrained head


def test_outputs_of_an_imagenet_classifier_are_synsets() -> None:
    import timm

    from gtacli.probing.class_map import output_names

    network = timm.create_model("vit_tiny_patch16_224", num_classes=1000, embed_dim=24, depth=1)
    names = output_names(type("M", (), {"classes": (), "model": network})())  # type: ignore[arg-type]
    assert (len(names), names[0], names[207]) == (1000, "n01440764", "n02099601")
