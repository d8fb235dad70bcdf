"""Tests of `--recipe RUN`, which repeats a run by its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gtacli.config.discover import DiscoverConfig
from gtacli.config.finetune import FinetuneConfig
from gtacli.config.resolve import resolve
from gtacli.errors import UsageError
from gtacli.finetuning.run import finetune
from gtacli.training.optimizers.timm_made import AdamW

Make = Callable[..., FinetuneConfig]


def repeat(run: Path, out: Path, **flags: Any) -> FinetuneConfig:
    given = {"out": str(out), **flags}
    return resolve(FinetuneConfig, "finetune", recipe=str(run), env={}, flags=given)


def epochs(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 2, "lr": None},
        {"epochs": 1, "shots": 2, "regularizer": ["none"], "hold_out": "none"},
        {"epochs": 1, "regularizer": ["bss:0.01", "l2-sp:0.1"], "lam": None, "image_size": "16x24"},
    ],
)
def test_a_run_is_repeated_exactly(
    config: Make, recorder: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    finetune(config(**changes), recorder)
    again = tmp_path / "again"
    finetune(repeat(tmp_path / "run", again), recorder)
    for name in ("model.safetensors", "split.json"):
        assert (again / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert epochs(again) == epochs(tmp_path / "run")


def test_a_rate_that_was_open_is_stored_and_used(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(config(lr=None, epochs=1), recorder)
    monkeypatch.setattr(AdamW, "lr", 3.0)
    assert repeat(tmp_path / "run", tmp_path / "again").lr == 1e-4


@pytest.mark.parametrize(
    ("changes", "strengths"),
    [
        ({"regularizer": ["bss", "l2-sp:0.5"], "lam": None}, {"bss": 0.001, "l2-sp": 0.5}),
        ({"regularizer": ["gta", "bss"], "lam": 2.0}, {"gta": 2.0, "bss": 0.001}),
        ({"regularizer": ["none"]}, {}),
    ],
)
def test_the_record_has_the_strengths(
    config: Make, recorder: Any, tmp_path: Path, changes: dict[str, Any], strengths: object
) -> None:
    finetune(config(**changes, epochs=1), recorder)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["resolved"]["strengths"] == strengths
    assert repeat(tmp_path / "run", tmp_path / "again").lam == changes.get("lam")


def test_paths_are_those_of_the_folder_where_the_run_began(
    config: Make, recorder: Any, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_data.parent)
    finetune(config(data=tiny_data.name, epochs=1), recorder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = repeat(tmp_path / "run", tmp_path / "again", seed="7")
    assert (found.data, found.seed, found.epochs) == (str(tiny_data), 7, 1)
    assert found.out == tmp_path / "again"


def test_what_is_no_run_of_the_command_is_told(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    for content, text in (
        ("{", "cannot be read"),
        ("[]", "is not the record of a run"),
        ('{"command": "pretrain", "config": {}}', "is of `gta pretrain`, not of `gta finetune`"),
    ):
        record.write_text(content)
        with pytest.raises(UsageError, match=text):
            repeat(tmp_path, tmp_path / "again")
    record.write_text('{"command": "discover", "config": {}}')
    with pytest.raises(UsageError, match="`gta discover` repeats no run"):
        resolve(DiscoverConfig, "discover", recipe=str(tmp_path), env={})
