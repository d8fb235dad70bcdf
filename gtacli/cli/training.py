"""Processes, progress display and result table of the commands that train."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.config.training import TrainingConfig
from gtacli.errors import UsageError
from gtacli.runtime.processes import process_info

if TYPE_CHECKING:
    from gtacli.training.loop import Observer

log = logging.getLogger(__name__)
Metrics = dict[str, Any]
LEARNED = {"best_epoch", "attention_drift", "final_loss", "recon", "recon_fg", "recon_bg"}
"""What says how well was learned, beside the percentages: a dry run's single step has not."""


def train(
    config: TrainingConfig,
    call: Call,
    table: Sequence[tuple[str, str, bool]],
    describe: Callable[[Metrics], list[str]],
    run: Callable[[Observer], Metrics],
) -> int | None:
    """Run a training, here or in processes of its own, and print its summary.

    Args:
        table: rows of the result: (key of the summary, label, whether it is a percentage).
        describe: returns the metrics of an epoch for the log.
        run: trains and returns the summary.

    Returns: the exit status of the other processes, if the training ran in them.
    """
    process = process_info()
    if process.size == 1 and (nproc := _processes(config, call.command)) > 1:
        from gtacli.runtime.launch import launch

        return launch(call.argv, nproc)
    if config.nproc not in (1, process.local_size):
        text = f"torchrun has started {process.local_size} processes here, not {config.nproc}"
        raise UsageError(text, option="nproc")
    with ProgressDisplay(describe) as display:
        summary = run(display)
    if process.rank:
        return None
    if call.json:
        console.emit(summary)
        return None
    shown = dict(summary)
    if shown.get("best_epoch") is not None:
        shown["best_epoch"] += 1  # the log counts from 1, too
    title = ("dry run", "nothing is written") if call.dry_run else ("result", "")
    rows = [
        (label, _format(shown.get(key), percent))
        for key, label, percent in table
        if not (call.dry_run and (percent or key in LEARNED))
    ]
    console.table(title, [row for row in rows if row[1] is not None])
    return None


def _processes(config: TrainingConfig, command: str) -> int:
    """Return how many processes the training takes; what only starts them does without torch."""
    if config.resume is None:
        return config.nproc
    from gtacli.training.resuming import resumed_config

    return resumed_config(config, command).nproc


def _format(value: Any, percent: bool) -> Any:
    return f"{100 * value:.2f}" if percent and value is not None else value


class ProgressDisplay:
    """A progress bar on a terminal, and a line of the log per epoch.

    Args:
        describe: returns the metrics of an epoch for the log.
    """

    def __init__(self, describe: Callable[[Metrics], list[str]]) -> None:
        self._describe = describe

    def __enter__(self) -> ProgressDisplay:
        self._stack = ExitStack()
        self._advance: Any = None
        self._done = 0
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def step(self, epoch: int, batch: int, batches: int, epochs: int, loss: float) -> None:
        if self._advance is None:
            bar = console.progress("training", epochs * batches)
            self._advance = self._stack.enter_context(bar)
        done = epoch * batches + batch
        self._advance(done - self._done, f"epoch {epoch + 1}/{epochs}, loss {loss:.3f}")
        self._done = done

    def epoch(self, row: Metrics) -> None:
        parts = [f"epoch {row['epoch'] + 1}", *self._describe(row)]
        log.info("%s, %.0f images/s", ", ".join(parts), row["images_per_second"])
