"""`gta predict`: the classes of images, one line per image."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, Images, NullSeparated, config_command
from gtacli.config.predict import PredictConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.inference.results import Prediction

app = new_app()


@config_command(app, PredictConfig, "predict", dry_run=False)
def predict(
    config: PredictConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Name the classes of images, the most probable first.

    An image that cannot be read is reported, and the others are processed; the exit status is 1.
    """
    if config.model is None:
        raise UsageError("name a run folder of gta finetune, or another model", option="model")
    from gtacli.cli.follow import follow, lines
    from gtacli.data.inputs import iter_paths
    from gtacli.inference.predict import predict as run
    from gtacli.models import load_model
    from gtacli.runtime.devices import choose_compute

    compute = choose_compute(config.device, config.precision)
    paths = iter_paths(images or [], sys.stdin.buffer, null)
    model = load_model(config.model)
    ending = follow(
        lambda stop: run(model, paths, compute, config.top, config.batch_size, stop),
        lines(call.json, _text),
        call.json,
    )
    return ending.status


def _text(result: Prediction) -> str:
    ranked = (f"{t['class']} {100 * t['probability']:.1f} %" for t in result["top"])
    return f"{result['image']}\t{', '.join(ranked)}"
