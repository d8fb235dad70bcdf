"""What the commands that train have in common: processes, a bar, a line an epoch, the result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.options import Call
from gtacli.config.training import TrainingConfig
from gtacli.errors import UsageError
from gtacli.runtime.processes import process_info

if TYPE_CHECKING:
    from gtacli.training.loop import Observer

log = logging.getLogger(__name__)
Row = dict[str, Any]


def train(
    config: TrainingConfig,
    call: Call,
    result: Sequence[tuple[str, str, bool]],
    words: Callable[[Row], list[str]],
    run: Callable[[Observer], Row],
) -> int | None:
    """Run a training where it is to run, and print its summary.

    Args:
        result: of the table: (key of the summary, label, whether it is a share).
        words: an epoch's figures as the log shows them.
        run: trains, watched, and returns the summary.

    Returns: the exit status of the processes that did it, where this one only started them.
    """
    from gtacli.training.session import resumed_config

    place = process_info()
    if place.size == 1 and (nproc := resumed_config(config, call.command).nproc) > 1:
        from gtacli.runtime.launch import launch

        return launch(call.argv, nproc)
    if config.nproc not in (1, place.local_size):
        raise UsageError(
            f"--nproc: torchrun has started {place.local_size} processes here, not {config.nproc}"
        )
    with Watcher(words) as watcher:
        summary = run(watcher)
    if place.rank:
        return None
    if call.json:
        console.emit(summary)
        return None
    rows = [(label, _shown(summary.get(key), share)) for key, label, share in result]
    console.table(("result", ""), [row for row in rows if row[1] is not None])
    return None


def _shown(value: Any, share: bool) -> Any:
    return f"{100 * value:.2f}" if share and value is not None else value


class Watcher:
    """A bar on a terminal, a line an epoch everywhere.

    Args:
        words: an epoch's figures as the log shows them.
    """

    def __init__(self, words: Callable[[Row], list[str]]) -> None:
        self._words = words

    def __enter__(self) -> Watcher:
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

    def epoch(self, row: Row) -> None:
        parts = [f"epoch {row['epoch'] + 1}", *self._words(row)]
        log.info("%s, %.0f images/s", ", ".join(parts), row["images_per_second"])
