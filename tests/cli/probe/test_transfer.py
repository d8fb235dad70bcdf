"""Tests of `gta probe transfer`, which reports the metrics of two probes in one table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gtacli.probing.results import TransferResult


def words(task: str, model: Path, out: Path, *more: object) -> list[str]:
    start = ["probe", task, "-m", str(model), "-o", str(out), "--device", "cpu"]
    return [*start, *map(str, more)]


@pytest.fixture
def other_data(tiny_data: Path, tmp_path: Path) -> Path:
    """A second dataset with fewer images, and a validation split to test on."""
    root = tmp_path / "other-data"
    shutil.copytree(tiny_data / "train", root / "train")
    shutil.copytree(tiny_data / "test", root / "val")
    (root / "val" / "red" / "0.png").unlink()
    return root


def test_several_datasets(
    gta: Any, check_fields: Any, tiny_model: Path, tiny_data: Path, other_data: Path, tmp_path: Path
) -> None:
    given = ["--data", tiny_data, other_data, "--compare", tiny_model]
    done = gta(*words("transfer", tiny_model, tmp_path / "o", *given), "--json")
    assert done.status == 0
    assert [line["data"] for line in done.lines] == [str(tiny_data)] * 2 + [str(other_data)] * 2
    assert [line["n_test"] for line in done.lines] == [12, 12, 11, 11]
    for line, data in zip(done.lines[::2], (tiny_data, other_data), strict=True):
        shared = tmp_path / "o" / "features"
        near, linear = (
            gta(*words(task, tiny_model, tmp_path / task / data.name, "--data", data,
                       "--cache", shared, *more), "--json").lines[0]
            for task, more in (("knn", ("--k", 20)), ("linear", ()))
        )  # fmt: skip
        assert line["knn"] == near["top1"]
        assert line["knn_interval"] == near["top1_interval"]
        assert line["linear"] == linear["top1"]
        names = ("heads", "features", "layer", "chosen_on")
        assert {name: line["chosen"][name] for name in names} == {n: linear[n] for n in names}
    for line in done.lines[1::2]:
        check_fields(TransferResult, line)
        assert [test["difference"] for test in line["compared"].values()] == [0, 0]
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert record["config"]["data"] == [str(tiny_data), str(other_data)]
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert len(summary["results"]) == 4
    table = gta(*words("transfer", tiny_model, tmp_path / "o", *given[:3], "--no-linear"))
    rows = [line.split("  ")[0] for line in table.out.splitlines()]
    assert rows[:2] == [
        "tiny-data: 18 training images, 12 to test on",
        "other-data: 18 training images, 11 to test on (its validation split)",
    ]
    assert rows[3:] == ["tiny-data, k-NN", "other-data, k-NN", "mean, k-NN"]


def test_wrong_data_is_reported_before_a_model_is_loaded(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    for given, message in (
        ([], "--data: name one or more labeled datasets"),
        (["--data", tiny_data, tiny_data], "named twice"),
        (["--data", tiny_data, tmp_path / "away"], "away"),
    ):
        done = gta(*words("transfer", tiny_model, tmp_path / "o", *given))
        assert (done.status, done.out) == (2, "")
        assert message in done.err
        assert "loaded" not in done.err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_processes_share_the_extraction(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    more = ("--data", tiny_data, "--json", "--precision", "fp32")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launch, "-m", "gtacli", *words("transfer", tiny_model, tmp_path / "two", *more)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (shared,) = map(json.loads, done.stdout.splitlines())
    (alone,) = gta(*words("transfer", tiny_model, tmp_path / "one", *more)).lines
    for name in ("knn", "linear", "n_train", "n_test"):
        assert shared[name] == alone[name]
