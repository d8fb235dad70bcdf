"""`gta calibrate`: probabilities that are frequencies, and when a prediction is not sure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, config_command
from gtacli.config.calibrate import CalibrateConfig

app = new_app()
Run = Annotated[Path, typer.Argument(help="folder of a run of gta finetune", metavar="RUN")]


@config_command(app, CalibrateConfig, "calibrate", dry_run=False)
def calibrate(config: CalibrateConfig, call: Call, run: Run) -> int:
    """Make a run's probabilities honest, by the images that it has held out.

    One temperature divides the logits, so that of the images with a probability of 80 % about 80 %
    are right; the predicted classes stay. gta predict uses it from then on, and with --unsure auto
    marks predictions below the probability from which on --accuracy is reached. Both are chosen on
    held-out images, or on those that the networks of its folds have not seen (gta finetune
    --folds); the calibration error is shown on the test images, too.
    """
    from gtacli.runtime.devices import choose_compute
    from gtacli.runtime.run_folder import RunFolder
    from gtacli.trained.calibrate import calibrate as run_calibration

    call.own(RunFolder(run))
    compute = choose_compute(config.device, config.precision)
    found: dict[str, Any] = {**run_calibration(config, run, compute)}
    if call.json:
        console.emit(found)
        return 0
    rows = [
        (name, found[count], _per_cent(found[before]), _per_cent(found[after]))
        for name, count, before, after in (
            ("not learned from", "n_val", "val_ece_before", "val_ece"),
            ("test", "n_test", "test_ece_before", "test_ece"),
        )
        if found[count]
    ]
    console.table(("images", "", "calibration error % before", "after"), rows)
    console.say(f"temperature {found['temperature']:.3g}")
    if found["threshold"] is not None:
        kept, right = _per_cent(found["test_sure"]), _per_cent(found["test_sure_top1"])
        text = f"predictions are sure from {100 * found['threshold']:.1f} % on"
        shown = "" if kept is None else f": {kept} % of the test images, {right or 0} % right"
        console.say(text + shown)
    return 0


def _per_cent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}"
