"""The command `gta finetune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gtacli.cli.call import Call
from gtacli.cli.lazy import new_app
from gtacli.cli.options import config_command
from gtacli.cli.training import train
from gtacli.config.finetune import FinetuneConfig

if TYPE_CHECKING:
    from gtacli.training.loop import Observer

app = new_app()


@config_command(app, FinetuneConfig, "finetune")
def finetune(config: FinetuneConfig, call: Call) -> int | None:
    """Fine-tune a pre-trained ViT and keep its attention close to the source's.

    Without --data and --model it trains on the built-in demo dataset, from the built-in source
    model.
    """

    def run(observer: Observer) -> dict[str, Any]:
        from gtacli.finetuning.run import finetune as run_here

        return run_here(config, observer, dry_run=call.dry_run)

    return train(config, call, RESULT, _describe_epoch, run)


RESULT = (
    ("test_top1", "test top-1 %", True),
    ("test_top5", "test top-5 %", True),
    ("test_mean_class_top1", "test mean class top-1 %", True),
    ("test_map", "test mAP %", True),
    ("test_f1_macro", "test F1 %, mean of classes", True),
    ("test_f1_micro", "test F1 %, all labels", True),
    ("linear_probe_top1", "linear probe, test top-1 %", True),
    ("linear_probe_map", "linear probe, test mAP %", True),
    ("val_top1", "val top-1 %", True),
    ("val_map", "val mAP %", True),
    ("folds_top1", "cross-validation, top-1 %", True),
    ("folds_map", "cross-validation, mAP %", True),
    ("folds_mean_class_top1", "cross-validation, mean class top-1 %", True),
    ("epochs", "epochs", False),
    ("best_epoch", "best epoch", False),
    ("average_alpha", "alpha of the average", False),
    ("kept_attention", "blocks whose attention is kept %", True),
    ("attention_drift", "attention drift", False),
    ("attention_inside", "attention on the object %", True),
    ("attention_area", "area of the object %", True),
    ("test_attention_inside", "test: attention on the object %", True),
    ("trainable_parameters", "parameters that learned", False),
    ("n_train", "trained on", False),
    ("n_val", "held out", False),
    ("n_test", "tested on", False),
    ("skipped", "unreadable", False),
    ("incomplete", "without their last bytes", False),
    ("images_per_second", "images a second", False),
    ("peak_memory_mb", "peak memory MB", False),
    ("seconds", "seconds", False),
    ("run", "run folder", False),
)


def _describe_epoch(row: dict[str, Any]) -> list[str]:
    """Return the metrics of an epoch's log line."""
    parts = [f"loss {row['train_loss']:.4f}"]
    parts += [f"{k} {row[k]:.4g}" for k in row if k.startswith("reg.") and row[k] is not None]
    if row["val_top1"] is not None:
        parts.append(f"val {100 * row['val_top1']:.1f} %")
    if row.get("val_map") is not None:
        parts.append(f"val mAP {100 * row['val_map']:.1f} %")
    if row["attention_drift"] is not None:
        parts.append(f"drift {row['attention_drift']:.3g}")
    if (row.get("attention") or {}).get("inside"):
        parts.append(f"on the object {100 * row['attention']['inside'][-1]:.1f} %")
    return parts
