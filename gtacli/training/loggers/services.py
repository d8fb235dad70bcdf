"""Loggers to TensorBoard, Weights & Biases and MLflow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from gtacli.config.parts import LoggerOptions, MLflowOptions, WandBOptions
from gtacli.training.loggers.base import RunLogger, numbers

INSTALL = "pip install 'gtacli[loggers]'"


class TensorBoard(RunLogger[LoggerOptions]):
    """A logger that writes event files to `tensorboard/` in the run folder."""

    install: ClassVar[str] = INSTALL

    def __init__(self, options: LoggerOptions) -> None:
        super().__init__(options)
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


class WandB(RunLogger[WandBOptions]):
    """A run of a project of Weights & Biases, named after the folder; WANDB_MODE=offline."""

    Options: ClassVar[type[LoggerOptions]] = WandBOptions
    install: ClassVar[str] = INSTALL

    def __init__(self, options: WandBOptions) -> None:
        super().__init__(options)
        self.wandb = import_module("wandb")

    def start(self, config: Mapping[str, Any], run: Path) -> None:
        project = self.options.project or os.environ.get("WANDB_PROJECT", "gta")
        quiet = self.wandb.Settings(console="off")
        self.run = self.wandb.init(
            project=project, name=run.name, dir=str(run), config=dict(config), settings=quiet
        )

    def row(self, row: Mapping[str, Any], step: int) -> None:
        self.run.log(numbers(row), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.run.summary.update(numbers(summary))
        self.run.finish()


class MLflow(RunLogger[MLflowOptions]):
    """A run of an experiment of MLflow (MLFLOW_TRACKING_URI)."""

    Options: ClassVar[type[LoggerOptions]] = MLflowOptions
    install: ClassVar[str] = INSTALL

    def __init__(self, options: MLflowOptions) -> None:
        super().__init__(options)
        self.mlflow = import_module("mlflow")

    def start(self, config: Mapping[str, Any], run: Path) -> None:
        if self.options.experiment is not None:
            self.mlflow.set_experiment(self.options.experiment)
        self.mlflow.start_run(run_name=run.name)
        self.mlflow.log_params({k: str(v)[:500] for k, v in config.items()})

    def row(self, row: Mapping[str, Any], step: int) -> None:
        self.mlflow.log_metrics(numbers(row), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.mlflow.log_metrics({f"summary.{k}": v for k, v in numbers(summary).items()})
        self.mlflow.end_run()
