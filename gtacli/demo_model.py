"""The demo's source model: a small ViT that is trained here, once, and kept in the user's cache.

It learns families of creatures that the demo's own classes have no part in (`demo-source`), so that
`gta finetune` without arguments transfers to something new, without a download.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.cache import cache_dir
from gtacli.errors import Interrupted
from gtacli.models.specs import ModelProvider, Weights
from gtacli.models.weights import WEIGHTS_FILE, read_weights
from gtacli.processes import here
from gtacli.registry import MODELS

log = logging.getLogger(__name__)

ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 96, "patch_size": 12, "embed_dim": 128, "depth": 6, "num_heads": 4}
# Part of the file's name: another recipe or another drawing makes another model.
VERSION = "1"
RECIPE: dict[str, Any] = {
    "data": "demo-source",
    "regularizer": "none",
    "drift": False,
    "epochs": 24,
    "batch_size": 32,
    "lr": 1e-3,
    "head_lr_scale": 1.0,
    "warmup": 2.0,
    "crop_scale": 0.35,
}


class Untrained(ModelProvider):
    """The demo's architecture with random weights."""

    help = "the demo's architecture with random weights"

    def weights(self) -> Weights:
        return Weights(ARCHITECTURE, None, {}, "demo-untrained", KWARGS)


class DemoModel(ModelProvider):
    """The demo's source, trained at its first use."""

    help: ClassVar[str] = "the demo's source: a small ViT, trained on this machine at its first use"

    def weights(self) -> Weights:
        file = cache_dir() / f"demo-model-{VERSION}.safetensors"
        if not file.is_file():
            self._train(file)
        tensors, metadata = read_weights(file)
        return Weights(ARCHITECTURE, tensors, metadata, "the demo's source model", KWARGS)

    @staticmethod
    def _train(file: Path) -> None:
        from gtacli.training.distribution import ALONE
        from gtacli.training.finetune import finetune

        if here().local_rank:  # one process a node trains it
            while not file.is_file():
                time.sleep(0.5)
            return
        log.warning("the demo's source model is trained once, which takes a minute or two")
        file.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: two first runs at once each train, and the later one wins.
        with TemporaryDirectory(dir=file.parent) as folder:
            run = Path(folder) / "run"
            try:
                with MODELS.registered("demo-untrained", Untrained):
                    finetune(
                        FinetuneConfig(model="demo-untrained", out=run, **RECIPE),
                        _Log(),
                        processes=ALONE,
                    )
            except Interrupted as e:
                raise Interrupted("stopped while the demo's source model was trained") from e
            (run / WEIGHTS_FILE).replace(file)


class _Log:
    """Says after every epoch how far the source is."""

    def step(self, *at: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None:
        top1 = row["val_top1"]
        shown = "" if top1 is None else f", {100 * top1:.0f} % on held-out images"
        log.info("source, epoch %d/%d%s", row["epoch"] + 1, RECIPE["epochs"], shown)
