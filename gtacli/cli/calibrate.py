"""`gta calibrate`: probabilities that are frequencies, and when a prediction is not sure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.lazy import new_app
from gtacli.cli.options import config_command
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

    Of a run with any number of labels per image (--multi-label) gta predict then names the labels
    above the probability at which the F1 of all labels together is highest.
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
    head, rows = _table(found)
    console.table(head, rows)
    console.say(f"temperature {found['temperature']:.3g}")
    if found["threshold"] is not None:
        kept, right = _per_cent(found["test_sure"]), _per_cent(found["test_sure_top1"])
        text = f"predictions are sure from {100 * found['threshold']:.1f} % on"
        shown = "" if kept is None else f": {kept} % of the test images, {right or 0} % right"
        console.say(text + shown)
    if found.get("label_threshold") is not None:
        console.say(f"labels are predicted above {100 * found['label_threshold']:.1f} %")
    console.say("gta predict uses it from now on; files that gta export wrote before do not")
    return 0


def _table(found: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Return the head and the rows of the table: before and after the calibration."""
    several = "label_threshold" in found
    head = ["images", "", "calibration error % before", "after"]
    if several:
        head += ["F1 of all labels % before", "after"]
    rows = []
    for name, part in (("not learned from", "val"), ("test", "test")):
        if found[f"n_{part}"]:
            keys = [f"{part}_ece_before", f"{part}_ece"]
            keys += [f"{part}_f1_micro_before", f"{part}_f1_micro"] if several else []
            rows.append([name, found[f"n_{part}"], *(_per_cent(found[key]) for key in keys)])
    return head, rows


def _per_cent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}"
