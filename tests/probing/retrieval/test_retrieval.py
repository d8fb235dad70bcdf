"""Retrieval against loops over the ranking, and the revisited protocol by its definition."""

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
from gtacli.probing.features.cache import FeatureCache
from gtacli.probing.features.evaluation import Bench, parts_of
from gtacli.probing.retrieval.classes import rank, retrieval
from gtacli.probing.retrieval.revisited import (
    LEVELS,
    Cropped,
    read_ground_truth,
    revisited,
    revisited_parts,
    score,
)
from gtacli.runtime.devices import choose_compute

CPU = choose_compute("cpu", "fp32")


@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 4), st.integers(0, 2**31))
def test_ranks_against_a_loop(queries: int, images: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked, gallery = rng.normal(size=(queries, 5)), rng.normal(size=(images, 5))
    labels, theirs = rng.integers(0, classes, queries), rng.integers(0, classes, images)
    for among in (False, True):
        if among:
            gallery, theirs = asked, labels
        found = rank(*map(torch.from_numpy, (asked, labels, gallery, theirs)), among)
        for q in range(queries):
            others = [g for g in range(len(gallery)) if not (among and g == q)]
            cosine = [gallery[g] @ asked[q] / np.linalg.norm(gallery[g]) for g in others]
            right = [theirs[others[i]] == labels[q] for i in np.argsort(cosine)[::-1]]
            precisions = [sum(right[: i + 1]) / (i + 1) for i, hit in enumerate(right) if hit]
            if precisions:
                assert found.precision[q] == pytest.approx(np.mean(precisions))
                assert found.first[q] == right.index(True)
            else:
                assert np.isnan(found.precision[q])
                assert found.first[q] == len(others)


def test_features_that_are_no_numbers() -> None:
    bad = torch.tensor([[1.0, torch.nan], [1.0, 2.0]])
    with pytest.raises(RunError, match="not finite"):
        rank(bad, torch.zeros(2), bad, torch.zeros(2), True)


def bench_of(folder: Path, parts: Any) -> Bench:
    return Bench(parts, FeatureCache(folder / "features", CPU))


def test_figures_of_a_data_set(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    from gtacli.data import load_dataset

    (tiny_data / "test" / "single").mkdir()  # alone in the test part, it can find none there
    (tiny_data / "test" / "red" / "0.png").rename(tiny_data / "test" / "single" / "0.png")
    (tiny_data / "train" / "single").mkdir()
    (tiny_data / "train" / "red" / "0.png").rename(tiny_data / "train" / "single" / "0.png")
    bench = bench_of(tmp_path, parts_of(load_dataset(str(tiny_data))))
    model = load_model(str(tiny_model))
    found = retrieval(bench, model, "test", (1, 11))
    test, train = bench.see(model, bench.parts.test), bench.see(model, bench.parts.train)
    ranked = rank(test.values, test.labels, test.values, test.labels, True)
    kept = ranked.precision[~np.isnan(ranked.precision)]
    assert (found.figures["n_queries"], found.figures["n_gallery"], found.n_test) == (11, 11, 12)
    assert found.figures["map"] == pytest.approx(kept.mean())
    assert found.figures["recall@11"] == 1
    assert found.figures["recall@1"] == pytest.approx((ranked.first == 0).sum() / 11)
    in_train = retrieval(bench, model, "train")
    ranked = rank(test.values, test.labels, train.values, train.labels, False)
    assert (in_train.figures["n_queries"], in_train.figures["n_gallery"]) == (12, 18)
    assert in_train.figures["map"] == pytest.approx(ranked.precision.mean())


def by_definition(ranked: list[int], easy: list[int], hard: list[int], junk: list[int],
                  level: str) -> float | None:  # fmt: skip
    """AP as the paper says it: the ranking without what does not count, then trapezoids."""
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
def test_the_revisited_protocol_by_its_definition(images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranked = rng.permutation(images)[: rng.integers(1, images + 1)]  # some could not be read
    kinds = rng.integers(0, 4, images)
    lists = {name: np.flatnonzero(kinds == i) for i, name in enumerate(("easy", "hard", "junk"))}
    plain = {name: of.tolist() for name, of in lists.items()}
    for level in LEVELS:
        expected = by_definition(ranked.tolist(), **plain, level=level)
        found = score(ranked, lists, level)
        if expected is None:
            assert found is None
        else:
            assert found is not None
            assert found[0] == pytest.approx(expected)
            assert all(0 <= share <= 1 for share in found[1])


def test_precision_at_k_by_hand() -> None:
    lists = {name: np.array(of, int) for name, of in
             (("easy", [1, 2]), ("hard", [3]), ("junk", [9]))}  # fmt: skip
    area, precision = score(np.array([9, 1, 5, 3, 6, 2, 7]), lists, "medium") or (0, [])
    # without the junk: 1 right, 5 wrong, 3 right, 6 wrong, 2 right, 7 wrong
    assert precision == pytest.approx([1, 3 / 5, 3 / 5])  # the last right one is the fifth
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


class Harm:
    """What a hostile pickle would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    file, mark = tmp_path / "gnd.pkl", tmp_path / "mark"
    file.write_bytes(pickle.dumps({**truth_of([]), "more": Harm(mark)}))
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
        (json.dumps(truth_of([{**ANSWERS[0], "bbx": [1, 2]}])).encode(), "not of four numbers"),
    ],
)
def test_files_that_are_no_ground_truth(tmp_path: Path, content: bytes, message: str) -> None:
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


def test_another_box_in_the_ground_truth_is_another_query(
    tiny_model: Path, places: Path, tmp_path: Path
) -> None:
    model, found = load_model(str(tiny_model)), []
    for box in ((2, 3, 30, 28), (8, 3, 36, 28)):
        truth = truth_of([{**ANSWERS[0], "bbx": list(box)}, ANSWERS[1]])
        (tmp_path / "gnd.json").write_text(json.dumps(truth))
        parts = revisited_parts(read_ground_truth(tmp_path / "gnd.json"), places)
        bench = bench_of(tmp_path, parts)  # the same folder of features
        found.append(bench.see(model, parts.test).values[0].clone())
    assert not torch.allclose(*found)


def test_places_end_to_end(tiny_model: Path, places: Path, tmp_path: Path) -> None:
    file = tmp_path / "gnd.json"
    file.write_text(json.dumps(truth_of(ANSWERS)))
    truth = read_ground_truth(file)
    parts = revisited_parts(truth, places)
    crop = parts.test[0].path
    assert isinstance(crop, Cropped)
    whole = Image.open(places / "jpg" / "a.png")
    seen = Image.open(crop.open())
    assert np.array_equal(np.asarray(seen), np.asarray(whole.crop((2, 3, 30, 28))))
    bench, model = bench_of(tmp_path, parts), load_model(str(tiny_model))
    found = revisited(bench, model, truth)
    gallery, queries = (bench.see(model, part).values for part in (parts.train, parts.test))
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=-1)
    for level in LEVELS:
        areas = []
        for row, one in zip(cosines.argsort(1, descending=True).tolist(), ANSWERS, strict=True):
            lists: dict[str, Any] = {k: one[k] for k in ("easy", "hard", "junk")}
            area = by_definition(row, **lists, level=level)
            areas += [] if area is None else [area]
        assert found.figures[f"map_{level}"] == pytest.approx(np.mean(areas))
        assert len(found.each[f"map_{level}"]) == len(areas)
    assert found.figures["map"] == found.figures["map_medium"]
    (places / "jpg" / "c.png").write_bytes(b"broken")
    bench = bench_of(tmp_path / "again", parts)
    assert revisited(bench, model, truth).figures["n_gallery"] == 3
    assert [*bench.skipped] == ["c"]
    with pytest.raises(UsageError, match="none of the ground truth's images"):
        revisited_parts(truth, tmp_path / "features")
    with pytest.raises(UsageError, match="no folder"):
        revisited_parts(truth, tmp_path / "away")
