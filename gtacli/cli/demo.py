"""The command `gta demo`, which compares GTA with plain fine-tuning on the built-in dataset."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.lazy import new_app
from gtacli.cli.options import config_command
from gtacli.config.demo import DemoConfig
from gtacli.runtime.repeated import hide_repeated

if TYPE_CHECKING:
    from gtacli.demo.results import DemoSummary, MeanAndDeviation
    from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)
app = new_app()


@config_command(app, DemoConfig, "demo")
def demo(config: DemoConfig, call: Call) -> None:
    """Compare GTA with plain fine-tuning on a built-in dataset, in minutes on two CPU cores.

    The program draws the dataset, twelve classes of creatures. The scenery indicates the class in
    training images and misleads in test images. Both methods start from the built-in source model,
    which was trained on other creatures, and use few images per class. "attention on object" is the
    fraction of the CLS token's attention in the last block that falls on the object, on test
    images; "drift" is the distance of the attention from the source's; "background gap" is the
    accuracy with test objects on backgrounds of their own class minus that on backgrounds of any
    class.

    The same command with the same --out continues an interrupted demo. --dry-run runs everything
    with one seed and one epoch, and writes nothing.
    """
    from gtacli.demo.runs import prepare_folder
    from gtacli.runtime.run_folder import RunFolder, default_out

    folder = RunFolder(config.out or default_out("demo", call.dry_run), call.dry_run)
    call.own(folder)
    config, anew = prepare_folder(config, folder)
    if not call.dry_run:
        _demo(config, call, folder, anew)
        return
    with TemporaryDirectory() as temporary:
        short = config.model_copy(update={"seeds": 1, "epochs": 1})
        _demo(short, call, RunFolder(Path(temporary)), anew=True)


def _demo(config: DemoConfig, call: Call, folder: RunFolder, anew: bool) -> None:
    from gtacli.config.report import ReportConfig
    from gtacli.demo.picture import draw_attention
    from gtacli.demo.results import compare, first_pair, measure
    from gtacli.demo.runs import plan_runs, train
    from gtacli.report.writer import write_report
    from gtacli.runtime.devices import choose_compute

    start = perf_counter()
    compute = choose_compute(config.device, config.precision)
    runs = plan_runs(config, folder.path)
    summaries = []
    bar = console.progress("training", len(runs) * config.epochs)
    with hide_repeated(*REPEATED), bar as advance:
        for run, summary in train(runs, anew, lambda run: EpochProgress(advance, run)):
            summaries.append(summary)
            _log(run, summary)
    with hide_repeated(*REPEATED):
        log.info("evaluating attention and background robustness")
        source, rows = measure(runs, summaries, compute)
        plain, gta = first_pair(runs)
        sheet, page = folder.path / "attention.png", folder.path / "report.html"
        draw_attention(plain, gta, sheet, compute)
        options = ReportConfig(out=page, device=config.device, precision=config.precision)
        write_report(options, [str(run.path) for run in runs], console.progress, sys.stdin.buffer)
    result: DemoSummary = {
        "source": source,
        **compare(rows),
        "sheet": None if call.dry_run else str(sheet),
        "report": None if call.dry_run else str(page),
        "run": None if call.dry_run else str(folder.path),
        "seconds": round(perf_counter() - start, 2),
    }
    if call.dry_run:
        rows = [{**row, "run": None} for row in rows]
    folder.write_json("summary.json", {"command": "demo", "runs": rows, **result})
    if call.json:
        for row in rows:
            console.emit(row)
        console.emit({"summary": result})
        return
    _show(result, len(runs) // 2)
    if not call.dry_run:
        console.say(str(sheet))
        console.say(str(page))


REPEATED = ("models", "training", "finetuning", "data.store")
"""Modules whose start-up messages would repeat for every run."""


class EpochProgress:
    """An observer that advances the progress bar once per epoch."""

    def __init__(self, advance: Any, run: Any) -> None:
        self.advance, self.note = advance, f"{run.method}, seed {run.seed}"

    def step(self, *at: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None:
        self.advance(1, self.note)


def _log(run: Any, summary: dict[str, Any]) -> None:
    log.info("%s, seed %d: test top-1 %.1f %%", run.method, run.seed, 100 * summary["test_top1"])


COLUMNS = ("", "test top-1 %", "attention on object %", "drift", "background gap %")


def _show(result: DemoSummary, seeds: int) -> None:
    methods, difference = result["methods"], result["difference"]
    inside = f"{100 * result['source']['attention_inside']:.1f}"
    rows = [["source", "", inside, "", ""]]
    rows += [[name, *_cells(metrics)] for name, metrics in methods.items()]
    if seeds > 1:
        rows.append(["gta - plain, by seed", *_cells(difference)])
    console.table(COLUMNS, rows)
    area = 100 * result["source"]["area"]
    over = f"mean ± standard deviation of {seeds} seeds; " if seeds > 1 else ""
    console.say(f"{over}the object covers {area:.1f} % of the image")


def _cells(metrics: dict[str, MeanAndDeviation]) -> list[str]:
    scales = {"test_top1": 100, "attention_inside": 100, "attention_drift": 1, "bg_gap": 100}
    return [_mean_and_sd(metrics[name], scale) for name, scale in scales.items()]


def _mean_and_sd(metric: MeanAndDeviation, scale: float) -> str:
    mean, deviation = scale * metric["mean"], metric["sd"]
    return f"{mean:.1f}" + ("" if deviation is None else f" ± {scale * deviation:.1f}")
