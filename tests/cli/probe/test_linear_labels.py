"""Tests of `gta probe linear --multi-label`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gtacli.probing.results import LabelsResult


def words(table: Path, model: Path, *more: str) -> list[str]:
    place = str(table.parent / "probe")
    return ["probe", "linear", "--data", str(table), "--multi-label", "--model", str(model),
            "--out", place, *more]  # fmt: skip


def test_a_regression_for_each_label(
    label_table: Path, tiny_model: Path, gta: Any, check_fields: Any
) -> None:
    result = gta(*words(label_table, tiny_model, "--json"))
    assert result.status == 0, result.err
    (line,) = result.lines
    check_fields(LabelsResult, line)
    assert line["map"] > 0.9
    low, high = line["map_interval"]
    assert low <= line["map"] <= high
    assert (line["n_train"], line["n_test"], line["chosen_on"]) == (18, 12, "held-out")
    again = gta(*words(label_table, tiny_model, "--compare", str(tiny_model)))
    assert "ranking of the labels" in again.out
    assert "paired" in again.out


@pytest.mark.parametrize(
    "more", [["--protocol", "mae"], ["--solver", "sgd"], ["--folds", "3"], ["--lr", "0.1"]]
)
def test_other_classifiers_are_refused(
    more: list[str], label_table: Path, tiny_model: Path, gta: Any
) -> None:
    result = gta(*words(label_table, tiny_model, *more))
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "exclude each other" in result.err


def test_single_columns_are_used_as_given(label_table: Path, tiny_model: Path, gta: Any) -> None:
    (line,) = gta(*words(label_table, tiny_model, "--features", "mean", "--json")).lines
    assert (line["features"], line["chosen_on"], line["heads"]) == ("mean", None, 1)
