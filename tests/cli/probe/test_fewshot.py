"""Tests of `gta probe fewshot`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gtacli.probing.results import FewshotResult


def words(model: Path, data: Path, out: Path, *more: object) -> list[str]:
    start = ["probe", "fewshot", "-m", str(model), "--data", str(data), "-o", str(out)]
    return [*start, "--device", "cpu", *map(str, more)]


def test_metrics_and_table(
    gta: Any, check_fields: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    (tiny_data / "test" / "red" / "0.png").write_bytes(b"no image")
    given = ["--shots", "1,6,9", "--draws", 4, "--classifier", "centroid,knn"]
    compare = ["--compare", tiny_model]
    done = gta(*words(tiny_model, tiny_data, tmp_path / "o", *given, *compare), "--json")
    assert done.status == 1
    failed, first, second = done.lines
    for line in (first, second):
        check_fields(FewshotResult, line)
    assert "0.png" in failed["image"]
    assert (first["task"], first["n_train"], first["n_test"]) == ("fewshot", 18, 11)
    assert first["draws"] == 4
    assert [*first["fewshot"]] == ["1", "6", "9"]
    assert [*first["fewshot"]["1"]] == ["centroid", "knn"]
    assert first["short_classes"] == {"9": 3}
    assert first["fewshot_sd"]["6"] == {"centroid": 0, "knn": 0}  # every draw has all images
    assert second["compared"]["knn@6"]["p"] == 1
    table = gta(*words(tiny_model, tiny_data, tmp_path / "o", *given))
    assert table.status == 1
    rows = [line.split("  ")[0] for line in table.out.splitlines()]
    assert rows[2:] == [f"{m}, {n} a class" for n in (1, 6, 9) for m in ("centroid", "knn")]


def test_one_draw_has_no_interval_in_valid_json(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    given = ["--shots", 1, "--draws", 1, "--classifier", "knn", "--json"]
    (line,) = gta(*words(tiny_model, tiny_data, tmp_path / "o", *given)).lines
    assert line["fewshot_interval"] == {"1": {"knn": [None, None]}}

    def refuse(word: str) -> None:
        raise AssertionError(word)

    text = (tmp_path / "o" / "summary.json").read_text()
    assert json.loads(text, parse_constant=refuse)["results"] == [line]
    assert "NaN" not in text


def test_wrong_usage(gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    for given, message in (
        (["--shots", "0"], "--shots"),
        (["--classifier", "svm"], "--classifier"),
        (["--draws", "0"], "--draws"),
    ):
        done = gta(*words(tiny_model, tiny_data, tmp_path / "o", *given))
        assert (done.status, done.out) == (2, "")
        assert message in done.err
