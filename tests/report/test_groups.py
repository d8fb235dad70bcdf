"""Groups of runs, their labels, and the format of metrics."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.report.groups import group_by_command, group_by_settings, label_runs
from gtacli.report.metrics import compute_mean, format_number, summary_metrics
from gtacli.report.run_folders import ReportRun
from gtacli.report.settings import method_settings


def run(name: str, summary: dict[str, Any] | None = None, **config: Any) -> ReportRun:
    return ReportRun(Path(name), name, {"command": "finetune", "config": config}, summary, [])


GTA: dict[str, Any] = {"regularizer": {"gta": {}}, "lam": None}
NONE: dict[str, Any] = {"regularizer": {}, "lam": None}


def test_runs_that_differ_in_seed_folder_and_device_are_one_setting() -> None:
    keys, groups = group_by_settings(
        [
            run("a", seed=1, out="a", device="cpu", **GTA),
            run("b", seed=1, out="b", device="cpu", **NONE),
            run("c", seed=2, out="c", device="cuda", **GTA),
        ]
    )
    assert keys == ("regularizer", "lam")
    assert [(g.label, g.runs, g.settings) for g in groups] == [
        ("gta", (0, 2), ("gta", "by the images")),
        ("none", (1,), ("none", "–")),
    ]


def test_a_lam_that_the_program_decides_is_no_other_lam() -> None:
    decided = [run("a", **GTA), run("b", **GTA)]
    given = [run("c", regularizer={"gta": {"lam": 0.1}}, lam=None), run("d", **{**GTA, "lam": 0.1})]
    _, groups = group_by_settings([*decided, *given])
    assert [(g.label, g.runs) for g in groups] == [
        ("lam by the images", (0, 1)),
        ("lam 0.1", (2, 3)),
    ]


def test_default_lam_equals_the_same_explicit_lam() -> None:
    l2sp = {"regularizer": {"l2-sp": {}}}
    assert len(group_by_settings([run("a", **l2sp), run("b", **l2sp, lam=0.01)])[1]) == 1


def test_the_recorded_strength_counts_for_parts_that_are_gone() -> None:
    gone = run("a", regularizer={"gone": {}}, lam=None)
    gone.record["resolved"] = {"strengths": {"gone": 0.25}}
    assert method_settings(gone)["lam"] == "0.25"
    assert method_settings(run("b", regularizer={"gone": {}}, lam=None))["lam"] == "default"
    assert method_settings(run("c", regularizer={"bss": {}}, lam=None))["lam"] == "0.001"


def test_strengths_of_further_regularizers_are_settings() -> None:
    both = [run(f"{lam}", regularizer={"gta": {}, "bss": lam}, lam=1.0) for lam in ({}, {"lam": 1})]
    assert [method_settings(one)["bss.lam"] for one in both] == ["0.001", "1"]
    assert len(group_by_settings(both)[1]) == 2


def test_labels_name_the_sampling_rate_and_lam_if_it_differs() -> None:
    runs = [
        run("a", sampling_rate=15.0, **GTA),
        run("b", sampling_rate=15.0, regularizer={"gta": {}}, lam=1.0),
        run("c", sampling_rate=100.0, **NONE),
    ]
    assert [g.label for g in group_by_settings(runs)[1]] == [
        "gta, lam by the images, 15 %",
        "gta, lam 1, 15 %",
        "none, 100 %",
    ]


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([run("x", seed=1, **GTA)], ["seed 1"]),
        ([run("x", seed=1, **GTA), run("y", seed=2, **GTA)], ["seed 1", "seed 2"]),
        ([run("x", seed=1, **GTA), run("y", seed=1, **GTA)], ["x", "y"]),
        ([run("x", seed=1, **GTA), run("y", seed=1, **NONE)], ["gta", "none"]),
        (
            [run("x", seed=1, **GTA), run("y", seed=3, **GTA), run("z", seed=1, **NONE)],
            ["gta · 1", "gta · 3", "none"],
        ),
    ],
)
def test_run_labels(runs: list[ReportRun], labels: list[str]) -> None:
    assert label_runs(runs, group_by_settings(runs)[1]) == labels


@given(st.permutations(range(5)))
def test_a_setting_has_one_color_whatever_the_order_of_the_runs(order: list[int]) -> None:
    runs = [
        run("a", seed=1, **NONE),
        run("b", seed=1, **GTA),
        run("c", seed=2, **NONE),
        run("d", regularizer={"l2-sp": {}}, lam=None),
        run("e", regularizer={"gta": {}}, lam=1.0),
    ]
    (command,) = group_by_command([runs[i] for i in order])
    colors = {runs[order[group.runs[0]]].name: group.color for group in command.groups}
    colors["c"] = colors["a"] = colors.get("a", colors.get("c", -1))
    assert colors == {"a": 0, "b": 1, "c": 0, "d": 2, "e": 3}
    # Plain fine-tuning and GTA keep their colors among other runs.
    (fewer,) = group_by_command([runs[i] for i in order if i in (0, 1)])
    assert {g.label: g.color for g in fewer.groups} == {"none": 0, "gta": 1}


def test_more_settings_than_colors_share_them() -> None:
    (command,) = group_by_command([run(f"{i}", sampling_rate=i, **NONE) for i in range(20)])
    assert {group.color for group in command.groups} == {0, *range(2, 10)}


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_deviation_is_the_sample_deviation(values: list[float]) -> None:
    result = compute_mean(values)
    assert result is not None
    assert result.value == pytest.approx(mean(values))
    assert result.deviation == pytest.approx(stdev(values))


def test_one_value_has_no_deviation_and_no_value_no_mean() -> None:
    assert compute_mean([]) is None
    alone = compute_mean([0.5])
    assert alone is not None
    assert alone.deviation is None


@pytest.mark.parametrize(
    ("value", "percent", "shown"),
    [
        (0.7265, True, "72.7"),
        (1.0, True, "100.0"),
        (3.514, False, "3.51"),
        (25.97, False, "26.0"),
        (9493.2, False, "9493"),
        (0.25, False, "0.25"),
        (0.0, False, "0"),
        (8.6e-5, False, "8.60e-05"),
        (-3.514, False, "-3.51"),
    ],
)
def test_number_format(value: float, percent: bool, shown: str) -> None:
    assert format_number(value, percent) == shown


def test_unknown_numbers_of_a_summary_are_metrics_and_costs_are_not() -> None:
    metrics = summary_metrics(
        [
            {
                "seconds": 3,
                "test_top1": 0.5,
                "attention_inside": 0.3,
                "odd": 2,
                "stopped_early": False,
            }
        ]
    )
    assert [(f.key, f.percent) for f in metrics] == [
        ("test_top1", True),
        ("attention_inside", True),
        ("odd", False),
    ]
