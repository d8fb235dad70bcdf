"""`gta predict`: classes of images, one line an image."""

from __future__ import annotations

import logging
import sys

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, Images, NullSeparated, config_command
from gtacli.config.predict import PredictConfig
from gtacli.errors import UsageError

log = logging.getLogger(__name__)
app = new_app()


@config_command(app, PredictConfig, "predict", dry_run=False)
def predict(
    config: PredictConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Name the classes of images, the likeliest first.

    Unreadable images are named, the rest is done, and the exit status is 1.
    """
    if config.model is None:
        raise UsageError("--model: name a run folder of gta finetune, or another model")
    from gtacli.data.inputs import iter_paths
    from gtacli.inference.predict import predict as run
    from gtacli.models import load_model
    from gtacli.runtime.devices import choose_compute

    compute = choose_compute(config.device, config.precision)
    paths = iter_paths(images or [], sys.stdin.buffer, null)
    model = load_model(config.model)
    failed = False
    for result in run(model, paths, compute, config.top, config.batch_size):
        if "error" in result:
            failed = True
            log.warning("%s", result["error"])
        if call.json:
            console.emit(result)
        elif "top" in result:
            ranked = (f"{t['class']} {100 * t['probability']:.1f} %" for t in result["top"])
            console.say(f"{result['image']}\t{', '.join(ranked)}")
    return 1 if failed else 0
