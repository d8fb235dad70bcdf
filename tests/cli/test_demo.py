"""Tests of `gta demo`, with few images."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms.v2.functional import pil_to_tensor

import gtacli.cli.demo as command
from gtacli import attention, load_model
from gtacli.config.demo import DemoConfig
from gtacli.data import load_dataset
from gtacli.data.truth import read_mask
from gtacli.demo.dataset import Demo
from gtacli.demo.runs import METHODS
from gtacli.images.decode import decode
from gtacli.scenes.world import DEMO

Gta = Callable[..., Any]
SHORT = ("--sampling-rate", "100", "--epochs", "2", "--device", "cpu", "--workers", "0")


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr(Demo, "world", replace(DEMO, counts={"train": 5, "test": 2}))


def without_times(lines: list[Any]) -> list[Any]:
    *runs, last = lines
    return [*runs, {"summary": {k: v for k, v in last["summary"].items() if k != "seconds"}}]


@torch.no_grad()
def measure_slowly(run: Path) -> tuple[float, float]:
    """Compute attention inside the object (last block) and drift, image by image."""
    source, model = load_model("demo"), load_model(str(run))
    view = model.view(torch.device("cpu"))
    insides, drifts = [], []
    for record in load_dataset("demo")["test"]:
        pixels = view(pil_to_tensor(decode(record.path))[None])
        taps, theirs = (attention(m.model, pixels, layers="all") for m in (model, source))
        assert record.mask is not None
        mask = torch.from_numpy(read_mask(record.mask) > 0).double()
        share = mask.view(8, 12, 8, 12).mean((1, 3))  # 8 x 8 patches of 12 pixels
        maps = taps[-1].maps()[0].double()
        insides.append(((maps * share).sum((1, 2)) / maps.sum((1, 2))).mean().item())
        apart = [(a.logits - b.logits)[..., 1:] for a, b in zip(taps, theirs, strict=True)]
        drifts.append(torch.stack([d.square().sum(-1).mean() for d in apart]).mean().item())
    return sum(insides) / len(insides), sum(drifts) / len(drifts)


@pytest.mark.slow
def test_table_pictures_and_report(gta: Gta, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = gta("demo", *SHORT, "--seeds", "2", "-o", str(out))
    assert done.status == 0, done.err
    head, *rows, _, sheet, page = done.out.splitlines()
    assert "background gap %" in head
    assert [row.split()[0] for row in rows] == ["source", "plain", "gta", "gta"]
    assert "±" in rows[1]
    assert (Path(sheet), Path(page)) == (out / "attention.png", out / "report.html")
    assert Path(sheet).stat().st_size > 10_000
    assert "plain-1" in Path(page).read_text(encoding="utf-8")
    summary = json.loads((out / "summary.json").read_text())
    plain = [row for row in summary["runs"] if row["method"] == "plain"]
    for name in ("test_top1", "bg_gap", "attention_inside"):
        assert summary["methods"]["plain"][name]["mean"] == pytest.approx(
            sum(row[name] for row in plain) / 2
        )
    for row in summary["runs"]:
        of_run = json.loads((Path(row["run"]) / "summary.json").read_text())
        inside, drift = measure_slowly(Path(row["run"]))
        assert row["attention_inside"] == pytest.approx(inside, rel=1e-3)
        assert row["attention_drift"] == pytest.approx(drift, rel=1e-2)
        assert row["accuracy"]["original"] == of_run["test_top1"]
    assert 0 < summary["source"]["attention_inside"] < 1


@pytest.mark.slow
def test_interrupted_demo_continues(
    gta: Gta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gta("demo", *SHORT, "--seeds", "1", "-o", str(tmp_path / "whole"), "--json")
    out = tmp_path / "demo"
    words = ("demo", *SHORT, "--seeds", "1", "-o", str(out), "--json")

    class Stop(command.EpochProgress):
        def epoch(self, row: dict[str, Any]) -> None:
            if self.note.startswith("gta") and row["epoch"] == 0:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(command, "EpochProgress", Stop)
        stopped = gta(*words)
    assert stopped.status == 130
    assert f"the same command and --out {out}" in stopped.err
    kept = (out / "plain-0" / "state.pt").stat().st_mtime_ns
    done = gta("demo", "-o", str(out), "--json")  # as the message suggests
    assert done.status == 0, done.err
    assert (out / "plain-0" / "state.pt").stat().st_mtime_ns == kept
    text = json.dumps(without_times(done.lines))
    assert json.loads(text.replace(str(out), str(tmp_path / "whole"))) == without_times(whole.lines)


@pytest.mark.slow
def test_dry_run_runs_everything_and_writes_nothing(
    gta: Gta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gta("demo", *SHORT, "--dry-run", "--json")
    assert done.status == 0, done.err
    plain, kept, last = done.lines
    assert (plain["method"], kept["method"]) == ("plain", "gta")
    assert plain["attention_drift"] > 0
    assert [last["summary"][key] for key in ("sheet", "report", "run")] == [None] * 3
    assert not list(tmp_path.glob("runs*"))


def test_dry_run_rejects_a_folder_in_use(gta: Gta, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    assert gta("demo", *SHORT, "--dry-run", "-o", str(tmp_path)).status == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--epochs", "3"), "has --epochs 2"),
        (("--sampling-rate", "50"), "has --sampling-rate 100"),
    ],
)
def test_demo_with_other_options_is_not_continued(
    gta: Gta, tmp_path: Path, changes: tuple[str, str], message: str
) -> None:
    config = DemoConfig(sampling_rate=100.0, epochs=2).model_dump(mode="json")
    record = {"command": "demo", "methods": METHODS, "config": config}
    (tmp_path / "run.json").write_text(json.dumps(record))
    refused = gta("demo", *SHORT, *changes, "-o", str(tmp_path))
    assert refused.status == 2
    assert message in refused.err


def test_demo_of_another_version_is_not_continued(gta: Gta, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"command": "demo", "methods": {}}))
    refused = gta("demo", "-o", str(tmp_path))
    assert refused.status == 2
    assert "written by another version" in refused.err


def test_folder_of_something_else_is_not_used(gta: Gta, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    refused = gta("demo", *SHORT, "-o", str(tmp_path))
    assert refused.status == 2
    assert "is not empty" in refused.err
    assert "holds no earlier run" in gta("demo", *SHORT, "-o", str(tmp_path), "--overwrite").err
