"""Two commands on one folder: one of them is refused, and the other one's result is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gtacli.config.finetune import FinetuneConfig
from gtacli.config.pretrain import PretrainConfig
from gtacli.errors import UsageError
from gtacli.finetuning.run import finetune
from gtacli.pretraining.run import pretrain
from gtacli.runtime import ownership
from gtacli.runtime.ownership import owned

TINY = {"device": "cpu", "workers": 0, "batch_size": 8}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "PATIENCE", 0.0)


def test_running_training_owns_its_folder(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, recorder: Any
) -> None:
    values: dict[str, Any] = {
        **TINY, "model": str(tiny_model), "data": str(tiny_data), "out": tmp_path / "run",
        "epochs": 1,
    }  # fmt: skip
    refused = []

    def intrude(row: dict[str, Any]) -> None:
        before = sorted((tmp_path / "run").iterdir())
        for other in (
            lambda: finetune(FinetuneConfig(**values, overwrite=True), recorder),
            lambda: finetune(FinetuneConfig(resume=tmp_path / "run"), recorder),
            lambda: pretrain(PretrainConfig(**values, overwrite=True), recorder),
        ):
            with pytest.raises(UsageError, match="in use by gta finetune") as error:
                other()
            refused.append(error.value.option)
        assert sorted((tmp_path / "run").iterdir()) == before

    recorder.at_epoch = intrude
    finetune(FinetuneConfig(**values), recorder)
    assert refused == ["out", "resume", "out"]
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "words",
    [
        ["segment", "{image}", "--model", "demo", "--layer", "-2", "--tau", "0.3", "--overwrite"],
        ["attn-maps", "{image}", "--model", "demo", "--overwrite"],
        ["probe", "knn", "--model", "demo", "--data", "demo"],
        ["probe", "attention", "{image}", "--model", "demo"],
        ["demo", "--seeds", "1", "--epochs", "1"],
        ["discover", "{image}", "--teacher", "demo", "--layer", "-2", "--tau", "0.3"],
    ],
    ids=lambda words: "-".join(words[:2]) if words[0] == "probe" else words[0],
)
def test_commands_respect_an_owner(
    words: list[str], tmp_path: Path, make_image: Any, gta: Any
) -> None:
    image = make_image(tmp_path / "a.png")
    out = tmp_path / "out"
    with owned(out, "finetune"):
        called = [word.format(image=image) for word in words]
        result = gta(*called, "--out", str(out))
    assert result.status == 2
    assert "in use by gta finetune" in result.err
    assert not out.exists()
