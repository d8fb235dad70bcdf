"""`gta finetune`: config -> run -> one result."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, config_command
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.processes import here

log = logging.getLogger(__name__)
app = new_app()


@config_command(app, FinetuneConfig, "finetune")
def finetune(config: FinetuneConfig, call: Call) -> int | None:
    """Train a pretrained ViT on your images while its attention stays near the source's.

    Without --data and --model it trains on the built-in demo set, from the built-in source model.
    """
    from gtacli.training.begin import resumed_config
    from gtacli.training.finetune import finetune as run

    place = here()
    if place.size == 1 and (nproc := resumed_config(config).nproc) > 1:
        from gtacli.training.launch import launch

        return launch(call.argv, nproc)
    if config.nproc not in (1, place.local_size):
        raise UsageError(
            f"--nproc: torchrun has started {place.local_size} processes here, not {config.nproc}"
        )
    with Watcher() as watcher:
        summary = run(config, watcher, dry_run=call.dry_run)
    if place.rank:
        return None
    if call.json:
        console.emit(summary)
        return None
    rows = [(label, _shown(summary.get(key), share)) for key, label, share in RESULT]
    console.table(("result", ""), [row for row in rows if row[1] is not None])
    return None


RESULT = (
    ("test_top1", "test top-1 %", True),
    ("test_top5", "test top-5 %", True),
    ("test_mean_class_top1", "test mean class top-1 %", True),
    ("val_top1", "val top-1 %", True),
    ("best_epoch", "best epoch", False),
    ("attention_drift", "attention drift", False),
    ("attention_inside", "attention on the object %", True),
    ("attention_area", "area of the object %", True),
    ("test_attention_inside", "test: attention on the object %", True),
    ("n_train", "trained on", False),
    ("n_val", "held out", False),
    ("n_test", "tested on", False),
    ("skipped", "unreadable", False),
    ("images_per_second", "images a second", False),
    ("peak_memory_mb", "peak memory MB", False),
    ("seconds", "seconds", False),
    ("run", "run folder", False),
)


def _shown(value: Any, share: bool) -> Any:
    return f"{100 * value:.2f}" if share and value is not None else value


class Watcher:
    """A bar on a terminal, a line an epoch everywhere."""

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

    def epoch(self, row: dict[str, Any]) -> None:
        parts = [f"epoch {row['epoch'] + 1}", f"loss {row['train_loss']:.4f}"]
        parts += [f"{k} {row[k]:.4g}" for k in row if k.startswith("reg.") and row[k] is not None]
        if row["val_top1"] is not None:
            parts.append(f"val {100 * row['val_top1']:.1f} %")
        if row["attention_drift"] is not None:
            parts.append(f"drift {row['attention_drift']:.3g}")
        if (row.get("attention") or {}).get("inside"):
            parts.append(f"on the object {100 * row['attention']['inside'][-1]:.1f} %")
        log.info("%s, %.0f images/s", ", ".join(parts), row["images_per_second"])
