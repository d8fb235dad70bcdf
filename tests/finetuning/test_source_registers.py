"""Tests of `source_registers`: a source whose outlier tokens are moved to appended ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.models import register_search
from gtacli.models.register_search import RegisterSearch
from gtacli.models.registers import registers_of

Make = Callable[..., FinetuneConfig]
FOUND = RegisterSearch(ratio=9.0, block=1, outliers=1.0, neurons=[[0, 3], [1, 5]], tokens=2)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register_search, "cached_search", lambda *_: FOUND)


@pytest.mark.usefixtures("found")
def test_a_run_preserves_the_attention_of_a_source_with_registers(
    config: Make, recorder: Any, tmp_path: Path
) -> None:
    summary = finetune(config(out=tmp_path / "with", source_registers="auto"), recorder)
    finetune(config(out=tmp_path / "plain"), recorder)
    ours, plain = (load_file(tmp_path / n / "model.safetensors") for n in ("with", "plain"))
    assert ours.keys() == plain.keys()
    assert any((ours[name] != plain[name]).any() for name in plain)
    assert summary["attention_drift"] is not None
    record = json.loads((tmp_path / "with" / "run.json").read_text())
    assert record["config"]["source_registers"] == "auto"
    neurons = {"0": [3], "1": [5]}
    assert record["resolved"]["source_registers"] == {"tokens": 2, "neurons": neurons}
    assert (
        "source_registers"
        not in json.loads((tmp_path / "plain" / "run.json").read_text())["resolved"]
    )


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("guide", ["logits", "msa", "block"])
def test_every_guide_compares_the_targets_own_tokens(
    config: Make, recorder: Any, guide: str
) -> None:
    rows = "all" if guide == "logits" else "cls"
    options = {"gta": {"guide": guide, "rows": rows, "lam": 0.1}}
    finetune(config(regularizer=options, source_registers=2, epochs=1), recorder)


@pytest.mark.usefixtures("found")
def test_only_the_source_has_registers_and_views_are_cached(config: Make, recorder: Any) -> None:
    changed = config(source_registers="auto", source_views=2)
    job = prepare(changed)
    assert job.source is not None
    assert registers_of(job.source.model) is not None
    assert registers_of(job.target.model) is None
    finetune(changed, recorder)


def test_a_source_without_outliers_is_named(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = RegisterSearch(ratio=1.5, block=1)
    monkeypatch.setattr(register_search, "cached_search", lambda *_: nothing)
    job = prepare(config(source_registers="auto"))
    assert job.source is not None
    assert registers_of(job.source.model) is None
    with pytest.raises(UsageError, match="has no outlier tokens") as error:
        prepare(config(source_registers=2))
    assert error.value.option == "source_registers"
