"""`gta demo`: plain fine-tuning against GTA on the built-in set, in minutes on two CPU cores."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, config_command
from gtacli.config.demo import DemoConfig

if TYPE_CHECKING:
    from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)
app = new_app()


@config_command(app, DemoConfig, "demo")
def demo(config: DemoConfig, call: Call) -> None:
    """See in minutes what GTA does: it is compared with plain fine-tuning on a built-in set.

    The set's twelve classes of creatures are drawn by the program. In training images the scenery
    gives the class away, in test images it misleads. Both methods start from the built-in source
    model, which knows other creatures, with few images a class. attention on the object: of the CLS
    token's in the last block, on test images. drift: how far the attention is from the source's.
    background gap: accuracy with test objects on backgrounds of their own class less that on any
    class's.

    Interrupted, the same command with the same --out goes on. --dry-run does all of it with one
    seed and one epoch, and keeps nothing.
    """
    from gtacli.demo.runs import claim
    from gtacli.runtime.run_folder import RunFolder, default_out

    folder = RunFolder(config.out or default_out("demo"), call.dry_run)
    config, anew = claim(config, folder)
    if not call.dry_run:
        _demo(config, call, folder, anew)
        return
    with TemporaryDirectory() as elsewhere:
        short = config.model_copy(update={"seeds": 1, "epochs": 1})
        _demo(short, call, RunFolder(Path(elsewhere)), anew=True)


def _demo(config: DemoConfig, call: Call, folder: RunFolder, anew: bool) -> None:
    from gtacli.config.report import ReportConfig
    from gtacli.demo.picture import draw_attention
    from gtacli.demo.results import compare, measure, pair_of
    from gtacli.demo.runs import planned, train
    from gtacli.report.make import make_report
    from gtacli.runtime.devices import choose_compute

    start = perf_counter()
    compute = choose_compute(config.device, config.precision)
    runs = planned(config, folder.path)
    summaries = []
    bar = console.progress("training", len(runs) * config.epochs)
    with _quieter(call.verbose), bar as advance:
        for run, summary in train(runs, anew, lambda run: Epochs(advance, run)):
            summaries.append(summary)
            _log(run, summary)
    with _quieter(call.verbose):
        log.info("where they look, and on other backgrounds")
        source, figures = measure(runs, summaries, compute)
        plain, gta = pair_of(runs)
        sheet, page = folder.path / "attention.png", folder.path / "report.html"
        draw_attention(plain, gta, sheet, compute)
        options = ReportConfig(out=page, device=config.device, precision=config.precision)
        make_report(options, [str(run.path) for run in runs], console.progress, sys.stdin.buffer)
    result = {"source": source, **compare(figures), "sheet": str(sheet), "report": str(page)}
    result |= {"run": str(folder.path), "seconds": round(perf_counter() - start, 2)}
    if call.dry_run:  # nothing of it is kept
        result |= dict.fromkeys(("sheet", "report", "run"))
        figures = [{**row, "run": None} for row in figures]
    folder.write_json("summary.json", {"command": "demo", "runs": figures, **result})
    if call.json:
        for row in figures:
            console.emit(row)
        console.emit({"summary": result})
        return
    _show(result, len(runs) // 2)
    if not call.dry_run:
        console.say(str(sheet))
        console.say(str(page))


@contextmanager
def _quieter(verbose: bool) -> Iterator[None]:
    """What each of several runs says of its beginning is said of none."""
    below = [] if verbose else [logging.getLogger(f"gtacli.{name}") for name in REPEATED]
    levels = [logger.level for logger in below]
    for logger in below:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(below, levels, strict=True):
            logger.setLevel(level)


REPEATED = ("models", "training", "data.store")


class Epochs:
    """Moves the bar on; a run's epochs are in its own metrics.jsonl."""

    def __init__(self, advance: Any, run: Any) -> None:
        self.advance, self.note = advance, f"{run.method}, seed {run.seed}"

    def step(self, *at: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None:
        self.advance(1, self.note)


def _log(run: Any, summary: dict[str, Any]) -> None:
    log.info("%s, seed %d: test top-1 %.1f %%", run.method, run.seed, 100 * summary["test_top1"])


COLUMNS = ("", "test top-1 %", "attention on object %", "drift", "background gap %")


def _show(result: dict[str, Any], seeds: int) -> None:
    methods, difference = result["methods"], result["difference"]
    inside = f"{100 * result['source']['attention_inside']:.1f}"
    rows = [["source", "", inside, "", ""]]
    rows += [[name, *_cells(of)] for name, of in methods.items()]
    if seeds > 1:
        rows.append(["gta - plain, by seed", *_cells(difference)])
    console.table(COLUMNS, rows)
    area = 100 * result["source"]["area"]
    over = f"mean ± standard deviation of {seeds} seeds; " if seeds > 1 else ""
    console.say(f"{over}the object's share of the area is {area:.1f} %")


def _cells(of: dict[str, dict[str, Any]]) -> list[str]:
    return [
        _spread(of["test_top1"], 100),
        _spread(of["attention_inside"], 100),
        _spread(of["attention_drift"], 1),
        _spread(of["bg_gap"], 100),
    ]


def _spread(figure: dict[str, Any], times: float) -> str:
    mean, deviation = times * figure["mean"], figure["sd"]
    return f"{mean:.1f}" + ("" if deviation is None else f" ± {times * deviation:.1f}")
