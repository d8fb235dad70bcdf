"""Tests of how a report reads the dataset of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from gtacli.data import load_dataset
from gtacli.data.unlabeled import load_images
from gtacli.report.evaluation import Notes, RunEvaluator
from gtacli.report.run_folders import read_runs


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_a_table_with_a_row_without_a_label(
    command: str, tmp_path: Path, make_image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fine-tuning leaves the row out, a pre-training reads all of them."""
    for name in ("a.png", "b.png", "c.png"):
        make_image(tmp_path / name)
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,cat\nb.png,\nc.png,dog\n")
    trained = load_images(str(table)) if command == "pretrain" else load_dataset(str(table))
    record = {
        "command": command,
        "folder": str(tmp_path),
        "config": {"data": "t.csv"},
        "data": {"fingerprint": trained.fingerprint()},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    notes = Notes()
    (run,) = read_runs([str(tmp_path / "run")])
    found = RunEvaluator(cast(Any, None), notes, cast(Any, None)).load_dataset(run)
    assert found is not None
    assert found[0].classes == trained.classes
    assert not notes
