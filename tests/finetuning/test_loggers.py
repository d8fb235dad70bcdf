"""Tests of the loggers: TensorBoard, wandb and MLflow read back, and one that fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gtacli.config.finetune import FinetuneConfig
from gtacli.config.resolve import resolve
from gtacli.errors import UsageError
from gtacli.finetuning.run import finetune
from gtacli.registry import LOGGERS
from gtacli.training.loggers import RunLogger

Make = Callable[..., FinetuneConfig]


class Fake(RunLogger[Any]):
    """A logger that records its calls."""

    told: list[tuple[str, Any]]

    def start(self, config: Mapping[str, Any], run: Path) -> None:
        assert (run / "run.json").is_file()
        self.told = [("start", config["epochs"])]

    def row(self, row: Mapping[str, Any], step: int) -> None:
        self.told.append(("row", step))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.told.append(("finish", summary["best_epoch"]))


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake(None)
    made.told = []

    class Once(Fake):
        """The one logger, whoever makes it."""

        def __new__(cls, options: Any) -> Any:
            return made

    with LOGGERS.registered("wandb", Once):
        yield made


def test_calls_of_a_logger(config: Make, recorder: Any, fake: Fake) -> None:
    summary = finetune(config(log=["wandb", "wandb"], refit=True), recorder)
    best = summary["best_epoch"]
    rows = [("row", step) for step in [*range(3), *range(3, 4 + best)]]
    assert fake.told == [("start", 3), *rows, ("finish", best)]
    assert len(recorder.rows) == len(rows)


def test_epochs_of_a_search_are_logged(config: Make, recorder: Any, fake: Fake) -> None:
    finetune(config(log="wandb", lam="auto", epochs=5), recorder)
    assert [step for what, step in fake.told if what == "row"] == [0, 1, 2, 3, 4]


def test_dry_run_is_not_logged(config: Make, recorder: Any, fake: Fake) -> None:
    finetune(config(log="wandb"), recorder, dry_run=True)
    assert fake.told == []


@pytest.mark.parametrize("where", ["start", "row", "finish"])
def test_failing_logger_does_not_end_the_run(
    where: str,
    config: Make,
    recorder: Any,
    fake: Fake,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(fake, where, fail, raising=False)
    summary = finetune(config(log="wandb"), recorder)
    assert summary["epochs_run"] == 3
    warned = [r.message for r in caplog.records if "`log`" in r.message]
    assert warned == ["`log`: wandb failed and is dropped (no route to host)"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_missing_package(
    name: str, config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"log: {name} .*pip install 'gtacli\[loggers\]'"):
        finetune(config(log=name), recorder)
    assert not (tmp_path / "run").exists()


def test_several_loggers_from_all_config_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("tensorboard", "mlflow")
    assert resolve(FinetuneConfig, "finetune", flags={"log": list(both)}).log == both
    assert resolve(FinetuneConfig, "finetune", sets=['log=["tensorboard","mlflow"]']).log == both
    monkeypatch.setenv("GTA_FINETUNE__LOG", "tensorboard, mlflow")
    assert resolve(FinetuneConfig, "finetune").log == both


def test_options_of_a_logger() -> None:
    flags: Any = {"log": ["wandb"], ("loggers", "wandb", "project"): "birds"}
    assert resolve(FinetuneConfig, "finetune", flags=flags).loggers == {
        "wandb": {"project": "birds"}
    }
    with pytest.raises(UsageError, match="projct"):
        resolve(FinetuneConfig, "finetune", sets=["loggers.wandb.projct=birds"])


def test_unknown_logger(config: Make) -> None:
    with pytest.raises(ValueError, match="tensorboard"):
        config(log="tensorbord")


def test_tensorboard(config: Make, recorder: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    summary = finetune(config(log="tensorboard"), recorder)
    finetune(config(log="tensorboard", overwrite=True), recorder)  # the first one's files go
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in ("train_loss", "reg.gta", "val_top1", "attention_drift", "lr"):
        read = [(e.step, e.value) for e in events.Scalars(name)]
        expected = [(row["epoch"], pytest.approx(row[name])) for row in recorder.rows[3:]]
        assert read == expected
    (top1,) = events.Scalars("summary/test_top1")
    assert top1.value == pytest.approx(summary["test_top1"])
    (text,) = events.Tensors("config/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert json.loads(shown.strip("`").removeprefix("json"))["epochs"] == 3


def test_mlflow(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    try:
        mlflow.set_tracking_uri(store)
        mlflow.search_experiments()
    except Exception:  # the skinny package has no data base
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    summary = finetune(config(log="mlflow"), recorder)
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "3"
    assert run.data.metrics["summary.test_top1"] == pytest.approx(summary["test_top1"])
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == [
        (row["epoch"], pytest.approx(row["train_loss"])) for row in recorder.rows
    ]


@pytest.mark.slow
def test_wandb_offline(
    config: Make,
    recorder: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    seen: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    finish = wandb.Run.finish

    def spy(self: Any, *args: Any, **kwargs: Any) -> None:
        summaries.append(dict(self.summary))
        finish(self, *args, **kwargs)

    log = wandb.Run.log
    monkeypatch.setattr(wandb.Run, "finish", spy)
    monkeypatch.setattr(
        wandb.Run, "log", lambda self, row, **k: (seen.append({**row, **k}), log(self, row, **k))
    )
    summary = finetune(config(log="wandb"), recorder)
    assert [row["step"] for row in seen] == [0, 1, 2]
    assert [row["val_top1"] for row in seen] == [row["val_top1"] for row in recorder.rows]
    assert summaries[0]["test_top1"] == summary["test_top1"]
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert capsys.readouterr().out == ""
