"""Results of `gta probe` in a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gtacli.cli import main
from gtacli.report.probe_tables import probe_metrics


def write_probe(path: Path, task: str, *results: dict[str, Any]) -> Path:
    path.mkdir()
    record = {"command": f"probe {task}", "config": {"seed": 0}, "argv": ["gta", "probe", task]}
    (path / "run.json").write_text(json.dumps(record))
    about = {"task": task, "data": "<birds>"}
    written = [{**about, **result} for result in results]
    (path / "summary.json").write_text(json.dumps({"results": written}))
    return path


KNN = {
    "model": "runs/plain",
    "knn": {"10": 0.5, "20": 0.625},
    "knn_interval": {"10": [0.4, 0.6], "20": [0.5, 0.75]},
    "k": 20,
    "top1": 0.625,
    "top1_interval": [0.5, 0.75],
    "n_test": 1389,
}
BETTER = {
    **KNN,
    "model": "runs/gta",
    "compared": {
        "knn@20": {"difference": 0.025, "p": 0.0001},
        "top1": {"difference": -0.1, "p": 0.2},
    },
}
FEWSHOT = {
    "model": "runs/plain",
    "fewshot": {"1": {"linear": 0.3, "centroid": 0.25}},
    "fewshot_interval": {"1": {"linear": [0.25, 0.35], "centroid": [None, None]}},
    "compared": {"linear@1": {"difference": 0.01, "p": 0.5}},
}
BACKGROUND = {
    "model": "runs/plain",
    "variants": {"mixed-same": {"top1": 0.75, "top1_interval": [0.7, 0.8], "n": 9}},
    "bg_gap": 0.25,
    "bg_gap_interval": [0.1, 0.4],
    "cosine": None,
    "cosine_interval": None,
    "compared": {"mixed-same": {"difference": 0.5, "p": 0.04}},
}


def test_metrics_of_a_result() -> None:
    assert [(row.title, row.value) for row in probe_metrics(KNN)] == [
        ("k-NN, k = 10", 0.5), ("k-NN, k = 20", 0.625), ("top 1", 0.625),
    ]  # fmt: skip
    assert [row.test for row in probe_metrics(BETTER)] == [
        None, {"difference": 0.025, "p": 0.0001}, {"difference": -0.1, "p": 0.2},
    ]  # fmt: skip
    assert [(*row[:3], row.test is None) for row in probe_metrics(FEWSHOT)] == [
        ("linear, 1 per class", 0.3, [0.25, 0.35], False),
        ("centroid, 1 per class", 0.25, [None, None], True),
    ]
    assert [(row.title, row.value, row.interval) for row in probe_metrics(BACKGROUND)] == [
        ("mixed-same", 0.75, [0.7, 0.8]), ("BG-Gap", 0.25, [0.1, 0.4]),
    ]  # fmt: skip
    assert [
        *probe_metrics({"model": "a", "task": "attention", "layers": [{"inside": [0.1]}]})
    ] == []


def test_report_of_probes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probes = [
        write_probe(tmp_path / "knn", "knn", KNN, BETTER),
        write_probe(tmp_path / "background", "background", BACKGROUND),
    ]
    out = tmp_path / "report.html"
    assert main(["report", *map(str, probes), "-o", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["runs"], result["complete"], result["images"]) == (2, 2, 0)
    page = out.read_text()
    assert "knn, &lt;birds&gt;, 1,389 images" in page
    assert "<birds>" not in page
    for text in ("62.5", "50.0 to 75.0", "+2.5, p &lt; 0.001", "-10.0, p = 0.200", "2 probes"):
        assert text in page
    assert "over the runs of a setting" not in page  # there are no settings


def test_each_kind_of_map_has_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"model": "a", "kind": kind, "insertion": value, "insertion_interval": [0.1, 0.9]}
        for kind, value in (("cls", 0.312), ("attnlrp", 0.423))
    ]
    probe = write_probe(tmp_path / "faithful", "attention", *lines)
    out = tmp_path / "report.html"
    assert main(["report", str(probe), "-o", str(out), "--json"]) == 0
    capsys.readouterr()
    page = out.read_text()
    assert all(text in page for text in ("kind cls", "31.2", "kind attnlrp", "42.3"))


def test_report_of_probes_and_runs(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = write_probe(tmp_path / "probe", "fewshot", FEWSHOT)
    out = tmp_path / "report.html"
    assert main(["report", str(runs[0]), str(probe), "-o", str(out), "--no-images"]) == 0
    capsys.readouterr()
    page = out.read_text()
    assert "over the runs of a setting" in page
    assert "linear, 1 per class" in page
    assert "1 run, 1 setting, 1 probe" in page


def test_report_of_probes_does_not_import_torch(tmp_path: Path) -> None:
    probe = write_probe(tmp_path / "probe", "knn", KNN)
    words = ["report", str(probe), "-o", str(tmp_path / "r.html")]
    code = f"""
import sys
from gtacli.cli import main

assert main({words!r}) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
