"""What every probe of features does around its own measurement: models in turn, each tested
against the first, one record a model, a table, a folder that later probes may use again.

    def knn(config: KnnProbeConfig, call: Call) -> int:
        def measure(bench: Bench, model: LoadedModel) -> Outcome: ...
        return run(config, call, measure, shown)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.options import Call
from gtacli.cli.probe.table import Figure, show_figures
from gtacli.config.common import CommonConfig
from gtacli.config.probe import FeatureProbeConfig
from gtacli.errors import UsageError
from gtacli.runtime.processes import process_info

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import Bench, Outcome, Parts
    from gtacli.runtime.distribution import Processes
    from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)
Shown = Callable[[dict[str, Any]], list[Figure]]
"""Rows of the table that a result gives."""
FEATURES, SHARED = "features", Path("runs/features")
LINES = 30.0  # seconds between two, where there is no terminal
_IDENTITY = ("task", "model", "data", "features", "layer", "image_size", "protocol", "gallery")


def run(
    config: FeatureProbeConfig,
    call: Call,
    measure: Callable[[Bench, LoadedModel], Outcome],
    shown: Shown,
    note: Callable[[dict[str, Any]], str | None] = lambda result: None,
    parts: Callable[[str], Parts] | None = None,
) -> int:
    """Measures --model and every --compare on --data and says what came of it; the exit status.

    Where features are asked for, images that cannot be read are named, the rest is done, and the
    status is 1.
    """
    from gtacli.models.names import short_names

    results, skipped = measured(config, call, measure, note, parts)
    if tell(call, skipped, results):
        console.say(counted(results[0]))
        names = short_names([result["model"] for result in results])
        show_figures(names, [shown(result) for result in results])
    return 1 if skipped else 0


def measured(
    config: FeatureProbeConfig,
    call: Call,
    measure: Callable[[Bench, LoadedModel], Outcome],
    note: Callable[[dict[str, Any]], str | None] = lambda result: None,
    parts: Callable[[str], Parts] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Measures --model and every --compare on --data.

    Args:
        note: a line for the log.
        parts: reads the data where it is no labelled data set.

    Returns: a result a model, and the images that could not be read, with the reason.
    """
    from gtacli.models import load_model
    from gtacli.probing.features.columns import features_named
    from gtacli.probing.features.evaluation import compared

    task = call.command.split()[-1]
    with begun(config, call, task, parts) as (bench, folder):
        assert config.model is not None
        specs = [config.model, *config.compare]
        outcomes: list[Outcome] = []
        results: list[dict[str, Any]] = []
        for spec in specs:
            start = perf_counter()
            model = load_model(spec, image_size=config.image_size)
            outcome = measure(bench, model)
            columns = outcome.columns or bench.columns(model)
            result = {
                "task": task,
                "model": spec,
                "reference": config.model if outcomes else None,
                "data": config.data,
                "features": features_named(columns),
                "layer": sorted({column.layer for column in columns}),
                "image_size": list(model.image_size),
                **outcome.figures,
                "n_train": outcome.n_train,
                "n_test": outcome.n_test,
                "test_part": bench.parts.test_part,
                "seconds": round(perf_counter() - start, 2),
            }
            if outcomes:
                result["compared"] = compared(outcome, outcomes[0])
            outcomes.append(outcome)
            results.append(result)
            if line := note(result):
                log.info("%s", line)
            record(folder, results)  # an interruption costs only what is under way
        return results, bench.skipped


@contextmanager
def begun(
    config: FeatureProbeConfig,
    call: Call,
    task: str,
    read: Callable[[str], Parts] | None = None,
) -> Iterator[tuple[Bench, RunFolder]]:
    """All that is checked and read before the first network, and the run folder."""
    if config.model is None:
        raise UsageError(
            "--model: name a pre-trained ViT (vit_small_patch16_224.dino, a run folder, ARCH@FILE)"
        )
    if config.data is None:
        raise UsageError("--data: name a labelled data set (a folder, a csv, demo, ...)")
    from gtacli.data.spec import load_dataset
    from gtacli.probing.features.cache import FeatureCache
    from gtacli.probing.features.evaluation import Bench, parts_of
    from gtacli.runtime.devices import choose_compute
    from gtacli.runtime.distribution import join_processes

    with ExitStack() as stack:
        processes = stack.enter_context(join_processes())
        compute = choose_compute(config.device, config.precision)
        parts = read(config.data) if read else parts_of(load_dataset(config.data), config.seed)
        folder = open_folder(config, call, task, processes)
        kept = config.cache or (SHARED if config.out is None else config.out / FEATURES)
        if call.dry_run:
            few = config.batch_size
            parts = replace(parts, train=parts.train[:few], val=parts.val[:few])
            parts = replace(parts, test=parts.test[:few])
            own = stack.enter_context(TemporaryDirectory())
            kept = Path(processes.run_on_main(lambda: own))
        cache = FeatureCache(
            kept,
            compute,
            config.batch_size,
            config.workers,
            processes,
            lambda total: console.progress("features", total, LINES),
        )
        yield Bench(parts, cache, config.features, config.layer, config.seed), folder


def open_folder(config: CommonConfig, call: Call, task: str, processes: Processes) -> RunFolder:
    """The run folder; an earlier probe's may be used again, for its features.

    Raises UsageError for a folder with anything else in it. With --overwrite another command's run
    is removed, but for one with weights: it may be the very model, and cost days.
    """
    from gtacli.runtime.run_files import WEIGHTS_FILE
    from gtacli.runtime.run_folder import RunFolder, default_out, environment

    out = config.out or processes.run_on_main(lambda: default_out(f"probe-{task}"))
    folder = RunFolder(out, call.dry_run, processes)
    if not _is_probe(folder):
        if folder.has(WEIGHTS_FILE):
            raise UsageError(
                f"--out: {out} holds a trained network, which no probe overwrites; choose another "
                "folder"
            )
        processes.run_on_main(lambda: folder.check_free(config.overwrite, resumable=False))
        folder.clear()
    settings = {"command": call.command, "config": config.model_dump(mode="json")}
    folder.write_json("run.json", {**settings, **environment()})
    return folder


def _is_probe(folder: RunFolder) -> bool:
    if not folder.has("run.json"):
        return False
    return str(folder.read_json("run.json").get("command", "")).startswith("probe ")


def record(folder: RunFolder, results: Sequence[dict[str, Any]]) -> None:
    """Into summary.json, beside what other probes have found in the same folder."""
    if folder.dry:
        return
    earlier = folder.read_json("summary.json")["results"] if folder.has("summary.json") else []
    new = [_identity(result) for result in results]
    kept = [result for result in earlier if _identity(result) not in new]
    folder.write_json("summary.json", {"results": [*kept, *results]})


def _identity(result: dict[str, Any]) -> list[Any]:
    return [result.get(name) for name in _IDENTITY]


def tell(call: Call, skipped: Mapping[str, str], results: Sequence[dict[str, Any]]) -> bool:
    """Results on stdout as JSON Lines; else whether there is a table to show."""
    if process_info().rank or not call.json:
        return not process_info().rank
    for key, reason in skipped.items():
        console.emit({"image": key, "error": reason})
    for result in results:
        console.emit(result)
    return False


def counted(result: dict[str, Any]) -> str:
    """How many images a result is of, for people."""
    where = {"test": "", "val": " (its validation part)", "held-out": " (held out of training)"}
    learnt = f"{result['n_train']:,} training images, " if result["n_train"] else ""
    return f"{learnt}{result['n_test']:,} to test on{where[result['test_part']]}"
