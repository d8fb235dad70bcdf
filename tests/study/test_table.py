from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gtacli.errors import UsageError
from gtacli.measures.statistics import paired_t
from gtacli.study.folder import StudyFolder
from gtacli.study.formats import header, notes, rows, to_csv, to_latex, to_markdown
from gtacli.study.metrics import is_fraction
from gtacli.study.plot import plot
from gtacli.study.states import StudyProgress
from gtacli.study.table import compare, make_table

from .conftest import STUDY, begin, finish, finish_all

ACCURACY = {
    "none": {"15": [0.50, 0.52, 0.49], "100": [0.70, 0.72, 0.71]},
    "gta": {"15": [0.60, 0.63, 0.60], "100": [0.69, 0.73, 0.71]},
}


def accuracy(name: str) -> dict[str, float]:
    found = re.fullmatch(r"(\w+),sampling_rate=(\d+),(?:tune.*,)?seed=(\d+)", name)
    assert found
    method, rate, seed = found.groups()
    if seed == "1000":
        return {"val_top1": 0.5, "test_top1": 1.0}
    value = ACCURACY[method][rate][int(seed)]
    return {"test_top1": value, "linear_probe_top1": value / 2, "attention_drift": 1 - value}


@pytest.fixture
def progress(folder: StudyFolder) -> StudyProgress:
    finish_all(folder, accuracy)
    return StudyProgress(folder)


def test_the_table_has_the_plain_formulas_numbers(progress: StudyProgress) -> None:
    table = make_table(progress)
    assert (table["metric"], table["by"], table["against"]) == (
        "test_top1",
        "sampling_rate",
        "none",
    )
    for row in table["rows"]:
        for column, entry in row["columns"].items():
            assert entry is not None
            drawn = ACCURACY[row["method"]][column]
            assert entry["mean"] == pytest.approx(np.mean(drawn))
            assert entry["std"] == pytest.approx(np.std(drawn, ddof=1))
            assert entry["n"] == 3
    none, gta = (row["columns"] for row in table["rows"])
    for column in ("15", "100"):
        expected = stats.ttest_rel(ACCURACY["gta"][column], ACCURACY["none"][column]).pvalue
        assert gta[column]["p"] == pytest.approx(expected)
        assert none[column]["p"] is None
    assert gta["15"]["best"]
    assert not none["15"]["best"]
    assert not gta["100"]["best"]  # better by chance
    assert table["tuning"]["gta"]["runs"] == 4
    assert table["tuning"]["gta"]["chosen"] == [{"lam": 0.01}]


def test_missing_and_changed_cells_are_left_out_and_named(folder: StudyFolder) -> None:
    name = "none,sampling_rate=15,seed=1"
    finish_all(folder, accuracy)
    finish(folder, name, accuracy(name), code="other")
    (folder.records / "gta,sampling_rate=100,seed=0.json").unlink()
    table = make_table(StudyProgress(folder))
    assert table["changed"] == [name]
    assert table["missing"] == ["gta,sampling_rate=100,seed=0"]
    none, gta = (row["columns"] for row in table["rows"])
    assert (none["15"]["n"], gta["15"]["n"], gta["100"]["n"]) == (2, 3, 2)
    assert any("1 cells are left out" in note for note in notes(table))
    assert "(n 2)" in rows(table)[0][1]


def test_rows_and_columns_are_any_key(progress: StudyProgress) -> None:
    table = make_table(progress, rows="sampling_rate", columns="method")
    assert [row["method"] for row in table["rows"]] == ["15", "100"]
    assert list(table["rows"][0]["columns"]) == ["none", "gta"]
    with pytest.raises(UsageError, match="did you mean 'sampling_rate'"):
        make_table(progress, columns="samplng_rate")
    with pytest.raises(UsageError, match="known: attention_drift"):
        make_table(progress, metric="nothing")
    with pytest.raises(UsageError, match="no row 'l2'"):
        make_table(progress, against="l2")


def test_further_keys_of_the_grid_make_rows_that_are_tested_within_themselves(
    tmp_path: Path,
) -> None:
    folder = begin(tmp_path, STUDY.replace("[method.none]", "lr = [1.0, 2.0]\n[method.none]"))
    lows = {"1.0": 0.0, "2.0": 0.2}
    for name in folder.plan.cells:
        lr = re.search(r"lr=([\d.]+)", name)
        assert lr
        result = accuracy(re.sub(r",lr=[\d.]+", "", name))
        finish(folder, name, {key: value - lows[lr[1]] for key, value in result.items()})
    table = make_table(StudyProgress(folder))
    assert [(row["method"], row["keys"]) for row in table["rows"]] == [
        ("none", {"lr": 1.0}),
        ("gta", {"lr": 1.0}),
        ("none", {"lr": 2.0}),
        ("gta", {"lr": 2.0}),
    ]
    assert all(row["columns"]["15"]["best"] == (row["method"] == "gta") for row in table["rows"])


def test_another_metric_is_a_row_of_its_own(tmp_path: Path) -> None:
    row = '[row.probe]\nmethod = "none"\nmetric = "linear_probe_top1"\n'
    folder = begin(tmp_path, STUDY + row)
    finish_all(folder, accuracy)
    table = make_table(StudyProgress(folder))
    assert [row["method"] for row in table["rows"]] == ["none", "probe", "gta"]
    assert table["rows"][1]["columns"]["100"]["mean"] == pytest.approx(0.355)
    drift = make_table(StudyProgress(folder), metric="attention_drift")
    assert [row["method"] for row in drift["rows"]] == ["none", "gta"]  # not a metric among others


@pytest.mark.parametrize("metric", ["attention_drift", "recon"])
def test_of_a_loss_the_lowest_is_the_best(metric: str, folder: StudyFolder) -> None:
    finish_all(folder, lambda name: {metric: 1 - accuracy(name)["test_top1"], "val_top1": 0.5})
    table = make_table(StudyProgress(folder), metric=metric)
    assert [row["columns"]["15"]["best"] for row in table["rows"]] == [False, True]


def test_repeats_of_one_measurement_are_no_evidence(folder: StudyFolder) -> None:
    """Where no seed changes anything, a difference has no spread, and no test is possible."""
    better = {"test_top1": 0.6, "val_top1": 0.5}
    finish_all(folder, lambda n: better if n.startswith("gta") else {"test_top1": 0.5})
    table = make_table(StudyProgress(folder))
    for row in table["rows"]:
        for entry in row["columns"].values():
            assert entry is not None
            assert (entry["p"], entry["best"]) == (None, False)
    assert compare(StudyProgress(folder), "gta", "none")[0]["p"] is None


def test_a_key_of_the_grid_may_have_lists_as_values(tmp_path: Path) -> None:
    text = STUDY[: STUDY.index("[method")] + 'regularizer = [["none"], ["gta"]]\n'
    folder = begin(tmp_path, text)
    finish_all(folder, lambda name: {"test_top1": 0.5})
    table = make_table(StudyProgress(folder))
    assert [row["keys"] for row in table["rows"]] == [
        {"regularizer": "none"}, {"regularizer": "gta"},
    ]  # fmt: skip
    by_list = make_table(StudyProgress(folder), rows="regularizer")
    assert [row["method"] for row in by_list["rows"]] == ["none", "gta"]


def test_a_row_of_a_method_with_a_grid_of_its_own_and_of_what_follows(tmp_path: Path) -> None:
    text = (
        STUDY
        + """
[method.none.grid]
lr = [0.1, 0.2]
[[then]]
command = "probe knn"
[row.features]
method = "none"
metric = "probe-knn:knn.20"
"""
    )
    folder = begin(tmp_path, text)
    finish_all(folder, lambda name: {"test_top1": 0.5, "knn": {"20": 0.3}})
    table = make_table(StudyProgress(folder))
    means = {row["method"]: row["columns"]["15"] for row in table["rows"]}
    assert [*means] == [
        "none lr=0.1", "features lr=0.1", "none lr=0.2", "features lr=0.2", "gta",
    ]  # fmt: skip
    entry = means["features lr=0.2"]
    assert entry is not None
    assert entry["mean"] == pytest.approx(0.3)


def test_what_does_not_follow_is_named_with_what_does(tmp_path: Path) -> None:
    folder = begin(tmp_path, STUDY + '[[then]]\ncommand = "probe knn"\n')
    with pytest.raises(UsageError, match="did you mean 'probe-knn'"):
        make_table(StudyProgress(folder), metric="prob-knn:knn.20")


@pytest.mark.parametrize(
    ("result", "metric"),
    [
        ({"n_train": 4, "knn": {"10": 0.4, "20": 0.3}}, "knn.20"),
        ({"n_train": 4, "fewshot": {"linear": {"1": 0.4}}}, "fewshot.linear.1"),
    ],
)
def test_the_main_metric_of_a_command_without_a_usual_one(
    result: dict[str, object], metric: str, tmp_path: Path
) -> None:
    folder = begin(tmp_path, STUDY[: STUDY.index("[method.gta.tune]")])
    finish_all(folder, lambda name: result)
    assert make_table(StudyProgress(folder))["metric"] == metric


def test_markdown_and_latex_mark_the_best_and_escape_names(progress: StudyProgress) -> None:
    table = make_table(progress)
    assert r"| gta | **61.0 ± 1.7** \* | 71.0 ± 2.0 |" in to_markdown(table)
    latex = to_latex(table)
    assert r"sampling\_rate & 15 & 100 \\" in latex
    assert r"gta & \textbf{61.0 $\pm$ 1.7$^{*}$} & 71.0 $\pm$ 2.0 \\" in latex
    body = [line for line in latex.splitlines() if not line.startswith("%")]
    assert not re.search(r"(?<!\\)[%#_]", "\n".join(body))
    assert header(table) == ["sampling_rate", "15", "100"]


NAMES = r"""
[method.'a_b & 100% \$x^2$ #1 {~}']
[method."größe – ± *"]
"""


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_latex_compiles_with_any_names(tmp_path: Path) -> None:
    folder = begin(tmp_path / "out", STUDY.split("[method.none]")[0] + NAMES)
    finish_all(folder, lambda name: {"test_top1": 0.5 + len(name) / 1000})
    latex = to_latex(make_table(StudyProgress(folder)))
    head, foot = r"\documentclass{article}\usepackage{booktabs}\begin{document}", r"\end{document}"
    (tmp_path / "t.tex").write_text("\n".join([head, latex, foot]), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search("^(Missing character|LaTeX Warning)", done.stdout, re.MULTILINE)


def test_csv_has_the_numbers_in_full(progress: StudyProgress) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(make_table(progress)))))
    assert len(lines) == 4
    assert float(lines[2]["mean"]) == pytest.approx(np.mean(ACCURACY["gta"]["15"]))


def test_two_rows_are_compared_by_seed(progress: StudyProgress) -> None:
    first, _ = compare(progress, "gta", "none")
    a, b = np.array(ACCURACY["gta"]["15"]), np.array(ACCURACY["none"]["15"])
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert first["difference"] == pytest.approx((a - b).mean())
    assert (first["low"], first["high"]) == pytest.approx((interval.low, interval.high))
    assert first["p"] == pytest.approx(expected.pvalue)
    assert first["n"] == 3


def test_the_paired_t_test_of_equal_differences_and_of_one_pair() -> None:
    assert np.isnan(paired_t([1, 2, 3], [0, 1, 2]).p)
    assert paired_t([1, 2, 3], [1, 2, 3]).p == 1
    assert np.isnan(paired_t([1], [2]).p)
    with pytest.raises(ValueError, match="no pairs"):
        paired_t([1, 2], [1])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_equal_tables_are_drawn_as_equal_files(
    progress: StudyProgress, tmp_path: Path, suffix: str
) -> None:
    files = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for file in files:
        plot(make_table(progress), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    if suffix == "svg":
        assert files[0].read_text().count("<path") > 10


def test_a_figure_needs_a_known_format_and_results(folder: StudyFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.png"):
        plot(make_table(StudyProgress(folder)), tmp_path / "a.bmp")
    with pytest.raises(UsageError, match="no cell has a result"):
        plot(make_table(StudyProgress(folder)), tmp_path / "a.png")


@pytest.mark.parametrize(
    ("metric", "fraction"),
    [
        ("test_top1", True),
        ("probe-knn:knn.20", True),
        ("probe-knn:seconds", False),
        ("probe-fewshot:fewshot.5.linear", True),
        ("probe-background:fg_consistency", True),
        ("segment:accuracy", True),
        ("probe-attention:seconds", False),
        ("attention_drift", False),
        ("probe-background:bg_gap", True),
    ],
)
def test_fractions_are_shown_as_percentages(metric: str, fraction: bool) -> None:
    assert is_fraction(metric) is fraction
