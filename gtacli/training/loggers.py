"""Experiment loggers: TensorBoard, Weights & Biases and MLflow.

Each adapter is a few lines behind one protocol. Its package is imported only if it is used, and an
error in it does not end the run.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from operator import methodcaller
from pathlib import Path
from typing import Any, Protocol

from gtacli.errors import UsageError, reason_of_library
from gtacli.training.loop import Observer

log = logging.getLogger(__name__)


class RunLogger(Protocol):
    """A logger of one run."""

    def start(self, config: Mapping[str, Any], run: Path) -> None:
        """Log the resolved config; `run` is the run's folder, which exists."""

    def row(self, row: Mapping[str, Any], step: int) -> None:
        """Log an epoch's row of metrics.jsonl; `step` counts epochs."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the content of summary.json and close."""


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that can be plotted."""
    kinds = (int, float)
    return {k: v for k, v in values.items() if isinstance(v, kinds) and not isinstance(v, bool)}


class TensorBoard:
    """A logger that writes event files to `tensorboard/` in the run folder."""

    def __init__(self) -> None:
        self.writer_of = import_module("torch.utils.tensorboard").SummaryWriter

    def start(self, config: Mapping[str, Any], run: Path) -> None:
        self.writer = self.writer_of(str(run / "tensorboard"))
        self.writer.add_text("config", f"```json\n{json.dumps(config, indent=1)}\n```")

    def row(self, row: Mapping[str, Any], step: int) -> None:
        for name, value in numbers(row).items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        for name, value in numbers(summary).items():
            self.writer.add_scalar(f"summary/{name}", value)
        self.writer.close()


class WandB:
    """A run of the project `gta` (WANDB_PROJECT), named after the folder; WANDB_MODE=offline."""

    def __init__(self) -> None:
        self.wandb = import_module("wandb")

    def start(self, config: Mapping[str, Any], run: Path) -> None:
        project = os.environ.get("WANDB_PROJECT", "gta")
        quiet = self.wandb.Settings(console="off")
        self.run = self.wandb.init(
            project=project, name=run.name, dir=str(run), config=dict(config), settings=quiet
        )

    def row(self, row: Mapping[str, Any], step: int) -> None:
        self.run.log(numbers(row), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.run.summary.update(numbers(summary))
        self.run.finish()


class MLflow:
    """A run of the current experiment (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME)."""

    def __init__(self) -> None:
        self.mlflow = import_module("mlflow")

    def start(self, config: Mapping[str, Any], run: Path) -> None:
        self.mlflow.start_run(run_name=run.name)
        self.mlflow.log_params({k: str(v)[:500] for k, v in config.items()})

    def row(self, row: Mapping[str, Any], step: int) -> None:
        self.mlflow.log_metrics(numbers(row), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.mlflow.log_metrics({f"summary.{k}": v for k, v in numbers(summary).items()})
        self.mlflow.end_run()


LOGGERS: dict[str, Callable[[], RunLogger]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


class Loggers:
    """Several loggers and an observer as one observer; a logger that fails is dropped.

    Args:
        names: of LOGGERS.
        observer: gets everything first.
        epochs: of the first phase; the steps of a refit's rows continue from there. May be set
            later, before the first such row.

    Raises UsageError for a package that is not installed.
    """

    def __init__(self, names: Sequence[str], observer: Observer, epochs: int) -> None:
        self.observer, self.epochs = observer, epochs
        self.active: dict[str, RunLogger] = {}
        for name in dict.fromkeys(names):
            try:
                self.active[name] = LOGGERS[name]()
            except ImportError as e:
                text = f"{name} cannot be imported ({e}); pip install 'gtacli[loggers]'"
                raise UsageError(text, option="log") from e

    def start(self, config: Mapping[str, Any], run: Path) -> None:
        self._for_each(lambda logger: logger.start(config, run))

    def step(self, epoch: int, batch: int, batches: int, epochs: int, loss: float) -> None:
        self.observer.step(epoch, batch, batches, epochs, loss)

    def epoch(self, row: dict[str, Any]) -> None:
        self.observer.epoch(row)
        self.catch_up([row])

    def catch_up(self, rows: Iterable[dict[str, Any]]) -> None:
        """Log epochs that were trained without an observer."""
        for row in rows:
            step = row["epoch"] + (self.epochs if "phase" in row else 0)
            self._for_each(methodcaller("row", row, step))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._for_each(lambda logger: logger.finish(summary))

    def _for_each(self, call: Callable[[RunLogger], None]) -> None:
        for name, logger in list(self.active.items()):
            try:
                with redirect_stdout(sys.stderr):  # stdout is for results
                    call(logger)
            except Exception as e:  # a full disk, a lost connection, a bug in the package
                reason = reason_of_library(e)
                log.warning("`log`: %s failed and is dropped (%s)", name, reason)
                del self.active[name]
