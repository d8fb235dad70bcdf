"""`gta merge`: one model from the weights of several runs, or of a run and its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.compute import start_compute
from gtacli.cli.lazy import new_app
from gtacli.cli.options import config_command
from gtacli.config.merge import MergeConfig
from gtacli.errors import UsageError

app = new_app()
Runs = Annotated[
    list[Path] | None, typer.Argument(help="folders of gta finetune's runs", metavar="RUN")
]


@config_command(app, MergeConfig, "merge", dry_run=False)
def merge(config: MergeConfig, call: Call, runs: Runs = None) -> int:
    """Average the weights of runs, or of a run and the model that it started from.

    Of one run the result lies between its source and itself, which often is right more often on
    images unlike those it was trained on (WiSE-FT). Of several runs that started from one model it
    is their mean (a soup). It is a run folder, which every command takes as a model, and is tested
    on the first run's test images.
    """
    if not runs:
        raise UsageError("no run: name the folders of one or more runs of gta finetune")
    from gtacli.runtime.run_folder import RunFolder, default_out
    from gtacli.trained.merge import merge as run

    compute = start_compute(config)
    folder = RunFolder(config.out or default_out("merge"))
    call.own(folder)
    folder.check_free(config.overwrite, resumable=False)
    folder.clear()
    summary = run(config, runs, folder, compute)
    folder.write_json("summary.json", summary)
    if call.json:
        console.emit(summary)
        return 0
    rows = [
        (each["run"], _score(each, "val"), _score(each, "test"))
        for each in summary["runs"]
        if each["kept"]
    ]
    merged = (summary["run"], _score(summary, "val"), _score(summary, "test"))
    console.table(("run", "held-out %", "test %"), [*rows, merged])
    console.say(f"alpha {summary['alpha']:g}")
    return 0


def _score(result: Mapping[str, Any], part: str) -> str | None:
    """Return the accuracy of held-out or test images in percent, or their mAP."""
    value = result.get(f"{part}_map", result[f"{part}_top1"])
    return None if value is None else f"{100 * value:.1f}"
