"""The command `gta pretrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gtacli.cli.call import Call
from gtacli.cli.lazy import new_app
from gtacli.cli.options import config_command
from gtacli.cli.training import train
from gtacli.config.pretrain import PretrainConfig

if TYPE_CHECKING:
    from gtacli.training.loop import Observer

app = new_app()


@config_command(app, PretrainConfig, "pretrain")
def pretrain(config: PretrainConfig, call: Call) -> int | None:
    """Pre-train a ViT without labels as a masked autoencoder guided by object maps.

    MAE, or the faster CrossMAE. With --maps or --teacher the error of each patch is weighted by
    exp(map / tau), so that the network learns objects before the background. Every other command
    can load the run's encoder: gta finetune --model RUN.
    """

    def run(observer: Observer) -> dict[str, Any]:
        from gtacli.pretraining.run import pretrain as run_here

        return run_here(config, observer, dry_run=call.dry_run)

    return train(config, call, RESULT, _describe_epoch, run)


RESULT = (
    ("final_loss", "loss", False),
    ("recon", "error of a masked patch", False),
    ("recon_fg", "inside the object", False),
    ("recon_bg", "outside", False),
    ("knn_top1", "20-nn top-1 %", True),
    ("n_train", "trained on", False),
    ("n_val", "classified", False),
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
    if row.get("recon_fg") is not None and row.get("recon_bg") is not None:
        parts.append(f"object {row['recon_fg']:.4f}, rest {row['recon_bg']:.4f}")
    if row.get("tau") is not None:
        parts.append(f"tau {row['tau']:.3g}")
    if row["knn_top1"] is not None:
        parts.append(f"20-nn {100 * row['knn_top1']:.1f} %")
    return parts
