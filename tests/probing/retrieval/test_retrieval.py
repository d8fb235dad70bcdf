"""Tests of retrieval against loops over the ranking, and of the revisited protocol."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gtacli import load_model
from gtacli.errors import RunError, UsageError
from gtacli.images.decode import ImageError, decode
from gtacli.probing.features.cache import FeatureCache
from gtacli.probing.features.evaluation import ProbeData, make_splits
from gtacli.probing.retrieval.by_class import rank_gallery, retrieval
from gtacli.probing.retrieval.revisited import (
    LEVELS,
    ImageCrop,
    make_revisited_splits,
    read_ground_truth,
    revisited,
    score_query,
)
from gtacli.runtime.devices import choose_compute

CPU = choose_compute("cpu", "fp32")


@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 4), st.integers(0, 2**31))
def test_rankings_equal_loops(queries: int, images: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, gallery = rng.normal(size=(queries, 5)), rng.normal(size=(images, 5))
    labels, gallery_labels = rng.integers(0, classes, queries), rng.integers(0, classes, images)
    for among in (False, True):
        if among:
            gallery, gallery_labels = features, labels
        found = rank_gallery(
            *map(torch.from_numpy, (features, labels, gallery, gallery_labels)), among
        )
        for q in range(queries):
            others = [g for g in range(len(gallery)) if not (among and g == q)]
            cosine = [gallery[g] @ features[q] / np.linalg.norm(gallery[g]) for g in others]
            right = [gallery_labels[others[i]] == labels[q] for i in np.argsort(cosine)[::-1]]
            precisions = [sum(right[: i + 1]) / (i + 1) for i, hit in enumerate(right) if hit]
            if precisions:
                assert found.precision[q] == pytest.approx(np.mean(precisions))
                assert found.first[q] == right.index(True)
            else:
                assert np.isnan(found.precision[q])
                assert found.first[q] == len(others)


def test_features_that_are_not_finite_are_refused() -> None:
    bad = torch.tensor([[1.0, torch.nan], [1.0, 2.0]])
    with pytest.raises(RunError, match="not finite"):
        rank_gallery(bad, torch.zeros(2), bad, torch.zeros(2), True)


def make_data(folder: Path, splits: Any) -> ProbeData:
    return ProbeData(splits, FeatureCache(folder / "features", CPU))


def test_metrics_of_a_dataset(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    from gtacli.data import load_dataset

    (tiny_data / "test" / "single").mkdir()  # the only test image of its class
    (tiny_data / "test" / "red" / "0.png").rename(tiny_data / "test" / "single" / "0.png")
    (tiny_data / "train" / "single").mkdir()
    (tiny_data / "train" / "red" / "0.png").rename(tiny_data / "train" / "single" / "0.png")
    data = make_data(tmp_path, make_splits(load_dataset(str(tiny_data))))
    model = load_model(str(tiny_model))
    found = retrieval(data, model, "test", (1, 11))
    test, train = data.extract(model, data.splits.test), data.extract(model, data.splits.train)
    ranking = rank_gallery(test.values, test.labels, test.values, test.labels, True)
    precision = ranking.precision[~np.isnan(ranking.precision)]
    assert (found.metrics["n_queries"], found.metrics["n_gallery"], found.n_test) == (11, 11, 12)
    assert found.metrics["map"] == pytest.approx(precision.mean())
    assert found.metrics["recall@11"] == 1
    assert found.metrics["recall@1"] == pytest.approx((ranking.first == 0).sum() / 11)
    in_train = retrieval(data, model, "train")
    ranking = rank_gallery(test.values, test.labels, train.values, train.labels, False)
    assert (in_train.metrics["n_queries"], in_train.metrics["n_gallery"]) == (12, 18)
    assert in_train.metrics["map"] == pytest.approx(ranking.precision.mean())


def by_definition(ranked: list[int], easy: list[int], hard: list[int], junk: list[int],
                  level: str) -> float | None:  # fmt: skip
    """Compute AP as in the paper: remove ignored images from the ranking, then use trapezoids."""
    found = {"easy": easy, "medium": easy + hard, "hard": hard}[level]
    ignored = {"easy": hard + junk, "medium": junk, "hard": easy + junk}[level]
    if not found:
        return None
    rest = [image for image in ranked if image not in ignored]
    area, recall, hits, precision = 0.0, 1 / len(found), 0, 1.0
    for place, image in enumerate(rest, start=1):
        if image in found:
            hits += 1
            area += recall * (precision + hits / place) / 2
        precision = hits / place
    return area


@given(st.integers(1, 25), st.integers(0, 2**31))
def test_the_revisited_protocol_equals_its_definition(images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranked = rng.permutation(images)[: rng.integers(1, images + 1)]  # without unreadable images
    kinds = rng.integers(0, 4, images)
    lists = {name: np.flatnonzero(kinds == i) for i, name in enumerate(("easy", "hard", "junk"))}
    plain = {name: of.tolist() for name, of in lists.items()}
    for level in LEVELS:
        expected = by_definition(ranked.tolist(), **plain, level=level)
        found = score_query(ranked, lists, level)
        if expected is None:
            assert found is None
        else:
            assert found is not None
            assert found[0] == pytest.approx(expected)
            assert all(0 <= share <= 1 for share in found[1])


def test_precision_at_k_by_hand() -> None:
    lists = {name: np.array(of, int) for name, of in
             (("easy", [1, 2]), ("hard", [3]), ("junk", [9]))}  # fmt: skip
    area, precision = score_query(np.array([9, 1, 5, 3, 6, 2, 7]), lists, "medium") or (0, [])
    # without the junk: 1 right, 5 wrong, 3 right, 6 wrong, 2 right, 7 wrong
    assert precision == pytest.approx([1, 3 / 5, 3 / 5])  # the last relevant one is the fifth
    assert area == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3)


def truth_of(gnd: list[dict[str, Any]]) -> dict[str, Any]:
    return {"imlist": ["a", "b", "c", "d"], "qimlist": ["a", "q"][: len(gnd)], "gnd": gnd}


ANSWERS = [
    {"bbx": [2.0, 3.0, 30.5, 28.0], "easy": [1], "hard": [], "junk": [0]},
    {"bbx": [0.0, 0.0, 20.0, 20.0], "easy": [2], "hard": [3], "junk": []},
]


def as_arrays(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lists = ("easy", "hard", "junk")
    return [{k: np.array(v) if k in lists else v for k, v in one.items()} for one in answers]


@pytest.mark.parametrize("kind", ["pickle", "pickle 2", "json"])
def test_ground_truth_files(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "gnd.pkl"
    if kind == "json":
        file.write_text(json.dumps(truth_of(ANSWERS)))
    else:
        protocol = 2 if kind == "pickle 2" else pickle.HIGHEST_PROTOCOL
        file.write_bytes(pickle.dumps(truth_of(as_arrays(ANSWERS)), protocol))
    truth = read_ground_truth(file)
    assert (truth.gallery, truth.queries) == (("a", "b", "c", "d"), ("a", "q"))
    assert truth.boxes == ((2.0, 3.0, 30.5, 28.0), (0.0, 0.0, 20.0, 20.0))
    assert truth.lists[1]["easy"].tolist() == [2]
    assert truth.lists[0]["hard"].tolist() == []


class HostilePickle:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_executes_no_code(tmp_path: Path) -> None:
    file, mark = tmp_path / "gnd.pkl", tmp_path / "mark"
    file.write_bytes(pickle.dumps({**truth_of([]), "more": HostilePickle(mark)}))
    with pytest.raises(UsageError, match=r"is no ground truth.*it would call"):
        read_ground_truth(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "is no ground truth"),
        (b"{}", "is no ground truth"),
        (json.dumps({**truth_of(ANSWERS), "gnd": ANSWERS[:1]}).encode(), "2 queries and 1 answers"),
        (json.dumps(truth_of([{**ANSWERS[0], "easy": [4]}])).encode(), "no image of the list"),
        (
            json.dumps(truth_of([{**ANSWERS[0], "bbx": [1, 2]}])).encode(),
            "does not have four numbers",
        ),
        (json.dumps(truth_of([{**ANSWERS[0], "bbx": [1, 2, 1, 9]}])).encode(), "has no area"),
        (json.dumps(truth_of([{**ANSWERS[0], "bbx": [1, 2, "inf", 9]}])).encode(), "has no area"),
        (json.dumps(truth_of([{**ANSWERS[0], "bbx": [1, "nan", 9, 9]}])).encode(), "has no area"),
    ],
)
def test_wrong_ground_truth_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "gnd.pkl"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_ground_truth(file)
    with pytest.raises(UsageError, match="no such file"):
        read_ground_truth(tmp_path / "away.pkl")


@pytest.fixture
def places(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "places" / "jpg").mkdir(parents=True)
    for name in ("a", "b", "c", "d", "q"):
        pixels: NDArray[np.uint8] = rng.integers(0, 255, (36, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "places" / "jpg" / f"{name}.png")
    return tmp_path / "places"


def test_a_changed_box_in_the_ground_truth_is_extracted_again(
    tiny_model: Path, places: Path, tmp_path: Path
) -> None:
    model, found = load_model(str(tiny_model)), []
    for box in ((2, 3, 30, 28), (8, 3, 36, 28)):
        truth = truth_of([{**ANSWERS[0], "bbx": list(box)}, ANSWERS[1]])
        (tmp_path / "gnd.json").write_text(json.dumps(truth))
        splits = make_revisited_splits(read_ground_truth(tmp_path / "gnd.json"), places)
        data = make_data(tmp_path, splits)  # with the same cache folder
        found.append(data.extract(model, splits.test).values[0].clone())
    assert not torch.allclose(*found)


def test_a_box_is_clipped_to_its_image(places: Path) -> None:
    image = places / "jpg" / "a.png"
    clipped = Image.open(ImageCrop(image, (-1e9, 3.0, 1e9, 1e9)).open())
    assert np.array_equal(np.asarray(clipped), np.asarray(Image.open(image))[3:])
    with pytest.raises(ImageError, match=r"cannot read image .*: the box .* has no area"):
        decode(ImageCrop(image, (50.0, 3.0, 60.0, 9.0)))


def test_the_revisited_probe_end_to_end(tiny_model: Path, places: Path, tmp_path: Path) -> None:
    file = tmp_path / "gnd.json"
    file.write_text(json.dumps(truth_of(ANSWERS)))
    truth = read_ground_truth(file)
    splits = make_revisited_splits(truth, places)
    crop = splits.test[0].path
    assert isinstance(crop, ImageCrop)
    picture = Image.open(places / "jpg" / "a.png")
    cropped = Image.open(crop.open())
    assert np.array_equal(np.asarray(cropped), np.asarray(picture.crop((2, 3, 30, 28))))
    data, model = make_data(tmp_path, splits), load_model(str(tiny_model))
    found = revisited(data, model, truth)
    gallery, queries = (data.extract(model, part).values for part in (splits.train, splits.test))
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=-1)
    for level in LEVELS:
        areas = []
        for row, one in zip(cosines.argsort(1, descending=True).tolist(), ANSWERS, strict=True):
            lists: dict[str, Any] = {k: one[k] for k in ("easy", "hard", "junk")}
            area = by_definition(row, **lists, level=level)
            areas += [] if area is None else [area]
        assert found.metrics[f"map_{level}"] == pytest.approx(np.mean(areas))
        assert len(found.per_image[f"map_{level}"]) == len(areas)
    assert found.metrics["map"] == found.metrics["map_medium"]
    (places / "jpg" / "c.png").write_bytes(b"broken")
    data = make_data(tmp_path / "again", splits)
    assert revisited(data, model, truth).metrics["n_gallery"] == 3
    assert [*data.skipped] == ["c"]
    with pytest.raises(UsageError, match="none of the ground truth's images"):
        make_revisited_splits(truth, tmp_path / "features")
    with pytest.raises(UsageError, match="no folder"):
        make_revisited_splits(truth, tmp_path / "away")
