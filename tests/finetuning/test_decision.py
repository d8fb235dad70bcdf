"""Tests of the decision whether the source's attention is kept, and of its estimate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import load_file, save_file

import gtacli.finetuning.decision as decision
import gtacli.finetuning.frozen_features as frozen_features
import gtacli.finetuning.head_start as head_start
import gtacli.finetuning.prepare as prepare
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import GtaError
from gtacli.finetuning.run import finetune
from gtacli.finetuning.suitability import Suitability

Make = Callable[..., FinetuneConfig]


@pytest.fixture
def undecided(config: Make) -> Make:
    """Return a function that creates a config without a strength."""
    return lambda **changes: config(**{"lam": None, **changes})


def suits(monkeypatch: pytest.MonkeyPatch, cls: float, blocks: float, error: float = 0.02) -> None:
    """Let the two classifiers have these accuracies."""
    found = Suitability(cls, blocks, error)
    monkeypatch.setattr(decision, "find_suitability", lambda *args, **kwargs: found)


@pytest.mark.parametrize(
    ("cls", "blocks", "kept", "why"),
    [
        (0.65, 0.53, [0, 1, 2], "tells the classes better"),
        (0.62, 0.78, [], "tells the classes worse"),
        (0.62, 0.61, [0, 1], "cannot tell"),  # of the lower half
        (0.61, 0.62, [0, 1], "cannot tell"),
    ],
)
def test_attention_is_kept_where_it_suits(
    undecided: Make,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    jobs: list[Any],
    cls: float,
    blocks: float,
    kept: list[int],
    why: str,
) -> None:
    suits(monkeypatch, cls, blocks)
    summary = finetune(undecided(epochs=1), recorder)
    assert (summary["lam"], summary["kept_blocks"]) == (0.1 if kept else 0.0, kept)
    assert summary["kept_attention"] == pytest.approx(len(kept) / 3)
    assert (summary["cls_top1"], summary["blocks_top1"]) == (cls, blocks)
    assert why in summary["why"]
    assert ("is kept in blocks" if kept else "is released") in summary["why"]
    regularizer = jobs[-1].task.regularizers.get("gta")
    assert [ours for ours, _ in regularizer.layers] == kept if kept else regularizer is None
    assert ("reg.gta" in recorder.rows[0]) == bool(kept)
    saved = json.loads((Path(summary["run"]) / "kept_attention.json").read_text())
    assert saved["kept_blocks"] == kept
    assert summary["attention_drift"] is not None


def test_blocks_that_the_user_names_are_candidates(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {"gta": {"layers": "-1,0"}}
    suits(monkeypatch, 0.9, 0.5)
    named = undecided(epochs=1, regularizer=layers)
    assert finetune(named, recorder)["kept_blocks"] == [0, 2]
    suits(monkeypatch, 0.5, 0.5)
    open_ = named.model_copy(update={"overwrite": True})
    assert finetune(open_, recorder)["kept_blocks"] == [0]


@pytest.mark.parametrize("changes", [{"lam": 0.1}, {"regularizer": "l2-sp"}, {"lam": 0}])
def test_nothing_is_decided_for_the_user(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    suits(monkeypatch, 0.9, 0.5)
    summary = finetune(undecided(epochs=1, **changes), recorder)
    assert "why" not in summary
    assert not (Path(summary["run"]) / "kept_attention.json").exists()


def test_kept_attention_is_the_default_strength(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    suits(monkeypatch, 0.5, 0.5)
    finetune(undecided(out=tmp_path / "a"), recorder)
    lower = {"gta": {"layers": "0,1", "every": 2}}
    finetune(undecided(out=tmp_path / "b", lam=0.1, regularizer=lower), recorder)
    assert _weights(tmp_path / "a") == _weights(tmp_path / "b")


def test_interval_of_the_user_is_kept(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, jobs: list[Any]
) -> None:
    suits(monkeypatch, 0.9, 0.5)
    finetune(undecided(epochs=1, regularizer={"gta": {"every": 1}}), recorder)
    assert jobs[-1].task.regularizers["gta"].every == 1


def test_released_attention_is_plain_fine_tuning(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    suits(monkeypatch, 0.5, 0.9)
    finetune(undecided(out=tmp_path / "a"), recorder)
    finetune(undecided(out=tmp_path / "b", regularizer="none"), recorder)
    assert _weights(tmp_path / "a") == _weights(tmp_path / "b")


def _weights(run: Path) -> dict[str, bytes]:
    tensors = load_file(run / "model.safetensors")
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def test_resumed_run_keeps_its_decision(
    undecided: Make,
    interrupted: Callable[..., dict[str, Any]],
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    suits(monkeypatch, 0.5, 0.9)
    whole = finetune(undecided(out=tmp_path / "whole"), recorder)
    parts = interrupted(undecided(out=tmp_path / "parts"))
    assert parts["why"] == whole["why"]
    assert _weights(tmp_path / "whole") == _weights(tmp_path / "parts")


def test_a_run_from_before_decisions_keeps_its_strength(
    undecided: Make, interrupted: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "DECISION_FILE", "elsewhere.json")
    suits(monkeypatch, 0.9, 0.5)
    original = decision.decide

    def forget(job: Any, run: Any, dry_run: bool = False) -> Any:
        result = original(job, run, dry_run)
        (run.path / "elsewhere.json").unlink(missing_ok=True)
        return result

    monkeypatch.setattr("gtacli.finetuning.run.decide", forget)
    summary = interrupted(undecided())
    assert "why" not in summary


def test_a_dry_run_decides_and_writes_nothing(
    undecided: Make,
    recorder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    suits(monkeypatch, 0.0, 0.02)  # as of one image a class, which no classifier has seen
    summary = finetune(undecided(), recorder, dry_run=True)
    assert summary["why"].startswith("a dry run does not decide")
    assert "unsuitable" not in caplog.text
    assert "a linear probe on" not in caplog.text
    assert not (tmp_path / "run").exists()


def test_source_that_knows_little_is_warned_of(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    suits(monkeypatch, 0.15, 0.25)
    finetune(undecided(epochs=1), recorder)
    assert "unsuitable" not in caplog.text
    suits(monkeypatch, 0.15, 0.12)
    finetune(undecided(epochs=1, overwrite=True), recorder)
    assert "unsuitable" in caplog.text
    assert "reaches 15 %" in caplog.text


def test_training_images_are_read_once_for_probe_and_start(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    original = frozen_features.extract_features

    def spy(job: Any, records: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(len(records))
        return original(job, records, *args, **kwargs)

    for module in (frozen_features, head_start):
        monkeypatch.setattr(module, "extract_features", spy)
    summary = finetune(undecided(epochs=1, head_init="probe"), recorder)
    assert passes == [summary["n_train"], summary["n_test"]]


def test_blocks_of_a_deeper_source_are_counted_from_the_end(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, jobs: list[Any], tmp_path: Path
) -> None:
    kwargs = {"embed_dim": 24, "depth": 4, "num_heads": 3, "img_size": 32, "patch_size": 8}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **kwargs)
    (tmp_path / "deep").mkdir()
    header = {"architecture": "vit_tiny_patch16_224", "kwargs": json.dumps(kwargs)}
    save_file(model.state_dict(), tmp_path / "deep" / "model.safetensors", header)
    suits(monkeypatch, 0.5, 0.5)
    layers = {"gta": {"layers": "-1,-2"}}
    config = undecided(epochs=1, source=str(tmp_path / "deep"), regularizer=layers)
    assert finetune(config, recorder)["kept_blocks"] == [1]
    assert jobs[-1].task.regularizers["gta"].layers == ((1, 2),)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"lam": "x", "kept_blocks": [0]}', '{"lam": 0.1, "kept_blocks": [7]}',
     '{"lam": 0.1, "kept_blocks": "all"}', '{"lam": NaN, "kept_blocks": [0]}'],
)  # fmt: skip
def test_damaged_decision_is_one_clear_error(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    suits(monkeypatch, 0.9, 0.5)
    config = undecided(epochs=1)
    finetune(config, recorder)
    assert config.out is not None
    (config.out / "kept_attention.json").write_text(content)
    with pytest.raises(GtaError, match=r"kept_attention\.json"):
        finetune(FinetuneConfig(resume=config.out), recorder)


def test_overwritten_run_leaves_no_decision(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    suits(monkeypatch, 0.9, 0.5)
    config = undecided(epochs=1)
    finetune(config, recorder)
    changes = {"lam": 0.1, "overwrite": True, "linear_probe": False}
    finetune(config.model_copy(update=changes), recorder)
    assert config.out is not None
    names = {path.name for path in config.out.iterdir()}
    assert not names & {"kept_attention.json", "linear_probe.json"}


def test_dataset_is_scanned_once(
    undecided: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = []
    load = prepare.load_dataset
    monkeypatch.setattr(prepare, "load_dataset", lambda *given: scans.append(given) or load(*given))
    suits(monkeypatch, 0.9, 0.5)
    finetune(undecided(epochs=1), recorder)
    assert len(scans) == 1


def test_model_without_cls_token_is_not_guided(undecided: Make, recorder: Any) -> None:
    changes = {"model": "test_vit2@none", "image_size": (32, 32), "epochs": 1}
    summary = finetune(undecided(**changes), recorder)
    assert (summary["lam"], summary["kept_blocks"], summary["cls_top1"]) == (0.0, [], None)
    assert "is released (lam 0): the model has no CLS token" in summary["why"]
    assert "reg.gta" not in recorder.rows[0]


@pytest.mark.parametrize("changes", [{"lam": 0.1}, {"lam": "auto", "epochs": 5}])
def test_strength_needs_a_cls_token(
    undecided: Make, recorder: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = {"model": "test_vit2@none", "image_size": (32, 32)}
    with pytest.raises(GtaError, match="rows: this model has no CLS token"):
        finetune(undecided(**model, **changes), recorder)
    assert not (tmp_path / "run").exists()
