"""Reports of run folders whose files hold values of other types than a run writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gtacli.cli import main
from gtacli.cli.probe.results import write_results
from gtacli.errors import GtaError
from gtacli.report.run_folders import read_runs
from gtacli.report.selection import select_models
from gtacli.runtime.run_folder import RunFolder

FILES: dict[str, Any] = {
    "run.json": {
        "command": "finetune",
        "config": {"model": "demo", "data": "demo", "epochs": 2, "regularizer": {"gta": {}}},
        "data": {"name": "demo", "fingerprint": "f"},
        "model": {"weights": "all", "fingerprint": "g"},
        "versions": {"python": "3.11"},
        "argv": ["gta", "finetune"],
        "threads": 1,
    },
    "summary.json": {"test_top1": 0.5, "n_train": 4, "best_epoch": 1, "lam": 1.0, "seconds": 3.0},
    "metrics.jsonl": {"epoch": 0, "train_loss": 1.5, "attention": {"inside": [0.1, 0.2]}},
}
RESULT: dict[str, Any] = {
    "task": "knn",
    "model": "demo",
    "data": "demo",
    "n_test": 10,
    "knn": {"20": 0.5},
    "knn_interval": {"20": [0.4, 0.6]},
    "top1": 0.5,
    "top1_interval": [0.4, 0.6],
    "compared": {"top1": {"difference": 0.1, "p": 0.5}},
    "variants": {"mixed": {"top1": 0.5, "top1_interval": [0.4, 0.6]}},
}
PROBE: dict[str, Any] = {
    "run.json": {"command": "probe knn", "config": {}},
    "summary.json": {"results": [RESULT, {**RESULT, "model": "other"}]},
}
RUN_CASES = [
    ("run.json", "command", []),
    ("run.json", "config", [1]),
    ("run.json", "config.model", {}),
    ("run.json", "config.data", ["x"]),
    ("run.json", "config.source", {"x": 1}),
    ("run.json", "config.epochs", "two"),
    ("run.json", "config.image_size", "wide"),
    ("run.json", "config.source_size", [1, 2, 3]),
    ("run.json", "config.patch_size", -1),
    ("run.json", "config.regularizer", 3),
    ("run.json", "config.guide", []),
    ("run.json", "data.name", []),
    ("run.json", "data.name", {"x": 1}),
    ("run.json", "versions", [1]),
    ("summary.json", "test_top1", "x"),
    ("summary.json", "test_top1", 1e308),
    ("summary.json", "own_metric", 1e308),
    ("summary.json", "best_epoch", 1e308),
    ("summary.json", "n_train", 1.5),
    ("metrics.jsonl", "epoch", "x"),
    ("metrics.jsonl", "epoch", [0]),
    ("metrics.jsonl", "epoch", {}),
    ("metrics.jsonl", "epoch", -1),
    ("metrics.jsonl", "train_loss", -1e308),
    ("metrics.jsonl", "attention.inside", [0.1, {}]),
]
PROBE_CASES = [
    ("task", {}),
    ("model", None),
    ("n_test", "x"),
    ("knn", {"20": "x"}),
    ("knn", {"20": [1]}),
    ("knn", [0.5]),
    ("knn_interval", {"20": 3}),
    ("knn_interval", {"20": [0.1]}),
    ("top1", {}),
    ("top1", 1e308),
    ("top1_interval", 3),
    ("top1_interval", ["x", "y"]),
    ("top1_interval", [1e308, None]),
    ("top1_interval", {"20": [0.4, 0.6]}),
    ("compared", {"top1": 3}),
    ("compared", {"top1": {"difference": "x"}}),
    ("compared", {"top1": {"difference": 0.1, "p": 1e308}}),
    ("variants", {"mixed": 3}),
    ("variants", {"mixed": {"top1": "x"}}),
]


def write_run(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value) + "\n", encoding="utf-8")
    return folder


def changed(value: Any, path: str, new: Any) -> Any:
    value = copy.deepcopy(value)
    *outer, last = path.split(".")
    at = value
    for key in outer:
        at = at[key]
    at[last] = new
    return value


@pytest.mark.parametrize(("name", "path", "value"), RUN_CASES)
def test_strange_entry_is_one_line_with_file_and_key(
    name: str, path: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_run(tmp_path / "good", FILES)
    bad = write_run(tmp_path / "bad", {**FILES, name: changed(FILES[name], path, value)})
    page = tmp_path / "r.html"
    assert main(["report", str(good), str(bad), "--no-images", "-o", str(page)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {bad / name}")
    assert path.split(".")[-1] in line
    assert not page.exists()


@pytest.mark.parametrize(("path", "value"), PROBE_CASES)
def test_strange_result_of_a_probe_is_one_line(
    path: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [changed(RESULT, path, value), PROBE["summary.json"]["results"][1]]
    bad = write_run(tmp_path / "bad", {**PROBE, "summary.json": {"results": results}})
    assert main(["report", str(bad), "--no-images", "-o", str(tmp_path / "r.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {bad / 'summary.json'}: 'results.0")


def test_line_of_metrics_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FILES)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": "one"}\n')
    with pytest.raises(
        GtaError, match=r"metrics\.jsonl \(line 2\): 'epoch' must be a whole number"
    ):
        read_runs([str(run)])


def test_entries_that_a_report_does_not_read_may_be_anything(tmp_path: Path) -> None:
    files = copy.deepcopy(FILES)
    files["run.json"]["own"] = [None, {"x": []}]
    files["run.json"]["argv"] = ["gta", "\udcff.png"]  # a name that is not UTF-8
    files["run.json"]["config"] |= {"layer": [1, [2]], "own": {"deep": {"x": [{}]}}}
    files["summary.json"] |= {"worst_classes": [{"class": "x"}], "kept_blocks": []}
    files["metrics.jsonl"] |= {"phase": None, "own": {"x": "y"}}
    run = write_run(tmp_path / "run", files)
    page = tmp_path / "r.html"
    words = [str(run), str(write_run(tmp_path / "probe", PROBE))]
    assert main(["report", *words, "--no-images", "-o", str(page)]) == 0
    assert "mixed" in page.read_text()


def test_recorded_sizes_select_models(tmp_path: Path) -> None:
    for size in (224, "96x64", [96, 64], None):
        config = {**FILES["run.json"]["config"], "image_size": size}
        files = {**FILES, "run.json": {**FILES["run.json"], "config": config}}
        runs = read_runs([str(write_run(tmp_path / "run", files))])
        assert len(select_models(runs, ["run"], [0])) == 2


def test_probe_does_not_add_to_strange_results(tmp_path: Path) -> None:
    run = write_run(tmp_path / "probe", {**PROBE, "summary.json": {"results": [3]}})
    with pytest.raises(GtaError, match=r"summary\.json: 'results\.0' must be a table, got 3"):
        write_results(RunFolder(run), [RESULT])
