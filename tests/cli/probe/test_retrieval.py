"""Tests of `gta probe retrieval`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gtacli.probing.results import RetrievalResult, RevisitedResult


def words(model: Path, data: Path, out: Path, *more: object) -> list[str]:
    start = ["probe", "retrieval", "-m", str(model), "--data", str(data), "-o", str(out)]
    return [*start, "--device", "cpu", *map(str, more)]


def test_retrieval_by_class(
    gta: Any, check_fields: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    given = ["--recall", "1,3", "--compare", tiny_model]
    done = gta(*words(tiny_model, tiny_data, tmp_path / "o", *given), "--json")
    assert done.status == 0
    first, second = done.lines
    check_fields(RetrievalResult, second)
    assert (first["task"], first["gallery"]) == ("retrieval", "test")
    assert (first["n_queries"], first["n_gallery"], first["n_train"]) == (12, 11, 0)
    assert 0 < first["map"] <= 1
    assert first["recall@1"] <= first["recall@3"]
    assert second["compared"]["map"]["test"] == "paired permutation"
    assert second["compared"]["recall@3"]["test"] == "McNemar"
    table = gta(*words(tiny_model, tiny_data, tmp_path / "o", "--gallery", "train"))
    lines = [line.split("  ")[0] for line in table.out.splitlines()]
    assert lines == [
        "18 training images, 12 to test on", "", "mAP", "recall@1", "recall@5", "recall@10",
    ]  # fmt: skip


def test_revisited_protocol(gta: Any, check_fields: Any, tiny_model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "jpg").mkdir()
    for name in "abcd":
        pixels = rng.integers(0, 255, (36, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "jpg" / f"{name}.jpg")
    box = [1.0, 2.0, 30.0, 30.0]
    answers = [
        {"bbx": box, "easy": [1], "hard": [2], "junk": [0]},
        {"bbx": box, "easy": [3], "hard": [], "junk": []},
    ]
    truth = {"imlist": [*"abcd"], "qimlist": ["a", "b"], "gnd": answers}
    file = tmp_path / "gnd.json"
    file.write_text(json.dumps(truth))
    given = ["--ground-truth", file, "--compare", tiny_model]
    done = gta(*words(tiny_model, tmp_path / "jpg", tmp_path / "o", *given), "--json")
    assert done.status == 0
    first, second = done.lines
    check_fields(RevisitedResult, second)
    assert (first["n_queries"], first["n_gallery"]) == (2, 4)
    assert first["map"] == first["map_medium"]
    assert [*first["mp_hard"]] == ["1", "5", "10"]
    assert first["map_hard_interval"] == [None, None]  # a single query
    assert second["compared"]["map_easy"]["p"] == 1
    table = gta(*words(tiny_model, tmp_path / "jpg", tmp_path / "o", "--ground-truth", file))
    assert table.status == 0
    assert "mAP, medium" in table.out
    (tmp_path / "jpg" / "b.jpg").write_bytes(b"broken")  # in the gallery and a query
    broken = gta(*words(tiny_model, tmp_path / "jpg", tmp_path / "o", *given), "--json")
    assert broken.status == 1
    assert [line["image"] for line in broken.lines[:2]] == ["b", "query/b"]
    other = ["--ground-truth", file, "--recall", 3]
    refused = gta(*words(tiny_model, tmp_path / "jpg", tmp_path / "p", *other))
    assert (refused.status, refused.out) == (2, "")
    assert "--recall is for classes" in refused.err
    file.write_bytes(b"none")
    wrong = gta(*words(tiny_model, tmp_path / "jpg", tmp_path / "p", "--ground-truth", file))
    assert (wrong.status, wrong.out) == (2, "")
    assert "is no ground truth" in wrong.err


def test_classes_that_training_has_not_seen(
    gta: Any, tiny_model: Path, tmp_path: Path, make_image: Any
) -> None:
    """The usual protocol; only commands that learn refuse them."""
    for folder in ("train/a", "train/b", "test/c", "test/d"):
        for i in range(3):
            make_image(tmp_path / "set" / folder / f"{i}.png", seed=i)
    done = gta(*words(tiny_model, tmp_path / "set", tmp_path / "o"), "--json")
    assert done.status == 0
    assert done.lines[0]["n_queries"] == 6
    shutil.rmtree(tmp_path / "set/train")
    assert gta(*words(tiny_model, tmp_path / "set", tmp_path / "q")).status == 0
    searched = gta(*words(tiny_model, tmp_path / "set", tmp_path / "r"), "--gallery", "train")
    assert searched.status == 2
    assert "--gallery: the data has no training images" in searched.err


def test_commands_that_learn_refuse_unseen_classes(
    gta: Any, tiny_model: Path, tmp_path: Path, make_image: Any
) -> None:
    for folder in ("train/a", "train/b", "test/c", "test/d"):
        make_image(tmp_path / "set" / folder / "1.png")
    given = words(tiny_model, tmp_path / "set", tmp_path / "p")
    refused = gta(*("knn" if word == "retrieval" else word for word in given))
    assert refused.status == 2
    assert "no class of test has a training image" in refused.err
