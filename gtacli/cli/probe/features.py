"""The common run of all feature probes: measure each model, compare it with the first, report.

def knn(config: KnnProbeConfig, call: Call) -> int:
    def measure(data: ProbeData, model: LoadedModel) -> ProbeResult: ...
    return run_probe(config, call, measure, rows)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.compute import start_compute
from gtacli.cli.default_model import with_model
from gtacli.cli.probe.results import open_folder, print_results, write_results
from gtacli.cli.probe.table import ModelMetric, show_metrics
from gtacli.config.probe.common import ExtractingProbeConfig, FeatureProbeConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import ProbeData, ProbeResult, Splits
    from gtacli.probing.features.parts import AtWork, HandOut
    from gtacli.runtime.devices import Compute
    from gtacli.runtime.distribution import Processes
    from gtacli.runtime.run_folder import RunFolder

    Measure = Callable[[ProbeData, LoadedModel], ProbeResult]

log = logging.getLogger(__name__)
MakeRows = Callable[[dict[str, Any]], list[ModelMetric]]
"""Returns the rows of the table of a result."""
FEATURES, SHARED = "features", Path("runs/features")
LINES = 30.0  # seconds between progress lines without a terminal


def run_probe(
    config: FeatureProbeConfig,
    call: Call,
    measure: Measure,
    rows: MakeRows,
    note: Callable[[dict[str, Any]], str | None] = lambda result: None,
    read_splits: Callable[[str], Splits] | None = None,
) -> int:
    """Measure and report `model` and every `compare` on `data`; return the exit status.

    Images that cannot be read are reported and skipped, and the status is 1.
    """
    from gtacli.models.names import short_names

    results, skipped = measure_models(config, call, measure, note, read_splits)
    if not results:  # this command has extracted one part
        return 0

    def show() -> None:
        console.say(count_images(results[0]))
        names = short_names([result["model"] for result in results])
        show_metrics(names, [rows(result) for result in results])

    print_results(call, results, show, skipped)
    return 1 if skipped else 0


def measure_models(
    config: FeatureProbeConfig,
    call: Call,
    measure: Measure,
    note: Callable[[dict[str, Any]], str | None] = lambda result: None,
    read_splits: Callable[[str], Splits] | None = None,
    processes: Processes | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Measure `model` and every `compare` on `data`.

    Args:
        note: returns a line for the log.
        read_splits: reads `data`; default: as a labeled dataset.
        processes: share the extraction; None: those that torchrun has started join for it.

    Returns: a result per model, none where this command extracts one part of the features, and the
    images that could not be read, with the reason.
    """
    from gtacli.models import load_model
    from gtacli.models.feature_columns import name_features
    from gtacli.models.register_search import with_registers
    from gtacli.probing.features.evaluation import compare_results
    from gtacli.probing.features.parts import PartDone

    task = call.command.split()[-1]
    config = with_model(config, config.data)
    with _open_probe(config, call, task, read_splits, processes) as (data, folder):
        assert config.model is not None
        specs = [config.model, *config.compare]
        found: list[ProbeResult] = []
        results: list[dict[str, Any]] = []
        for spec in specs:
            start = perf_counter()
            model = with_registers(
                load_model(spec, image_size=config.image_size),
                config.registers,
                data.cache.compute.device,
            )
            try:
                one = measure(data, model)
            except PartDone:
                continue
            columns = one.columns or data.columns(model)
            result = {
                "task": task,
                "model": spec,
                "reference": config.model if found else None,
                "data": config.data,
                "features": name_features(columns),
                "layer": sorted({column.layer for column in columns}),
                "image_size": list(model.image_size),
                **one.metrics,
                "n_train": one.n_train,
                "n_test": one.n_test,
                "test_part": data.splits.test_split,
                "seconds": round(perf_counter() - start, 2),
            }
            if found:
                result["compared"] = compare_results(one, found[0])
            found.append(one)
            results.append(result)
            if line := note(result):
                log.info("%s", line)
            write_results(folder, results)  # an interruption loses only the current model
        return results, data.skipped


@contextmanager
def _open_probe(
    config: FeatureProbeConfig,
    call: Call,
    task: str,
    read_splits: Callable[[str], Splits] | None = None,
    processes: Processes | None = None,
) -> Iterator[tuple[ProbeData, RunFolder]]:
    """Check the config, read the data and open the run folder, before any model is loaded."""
    if config.data is None:
        raise UsageError("name a labeled dataset (a folder, a csv, demo, ...)", option="data")
    from gtacli.data.spec import load_dataset
    from gtacli.probing.features.cache import FeatureCache
    from gtacli.probing.features.evaluation import ProbeData, make_splits
    from gtacli.probing.features.parts import FeatureParts
    from gtacli.runtime.distribution import join_processes

    with ExitStack() as stack:
        if processes is None:
            processes = stack.enter_context(join_processes())
        compute = start_compute(config).frozen
        if read_splits:
            splits = read_splits(config.data)
        else:
            several = getattr(config, "multi_label", False)
            splits = make_splits(load_dataset(config.data, several), config.seed)
        shared = config if isinstance(config, ExtractingProbeConfig) else None
        shard = (0, 1) if shared is None else shared.shard
        dry, precision = shard[1] > 1, compute.precision
        folder = open_folder(config, call, task, processes, dry, precision)
        cache_folder = config.cache or (SHARED if config.out is None else config.out / FEATURES)
        if call.dry_run:
            few = config.batch_size
            splits = replace(
                splits, train=splits.train[:few], val=splits.val[:few], test=splits.test[:few]
            )
            temporary = stack.enter_context(TemporaryDirectory())
            cache_folder = Path(processes.run_on_main(lambda: temporary))
        cache = FeatureCache(
            cache_folder,
            compute,
            config.batch_size,
            config.workers,
            processes,
            lambda total: console.progress("features", total, LINES),
        )
        data = ProbeData(splits, cache, config.features, config.layer, config.seed)
        if shared is not None and (shard[1] > 1 or shared.executor is not None):
            hand_out = _hand_out(shared, call, cache_folder, compute)
            data.parts = FeatureParts(cache, shard, hand_out)
        yield data, folder


def _hand_out(
    config: ExtractingProbeConfig, call: Call, cache: Path, compute: Compute
) -> HandOut | None:
    """Return what extracts a model's missing features in parts, on the config's executor if any."""
    name = config.executor
    if name is None or call.dry_run:
        return None
    from gtacli.cli.shards import run_shards
    from gtacli.registry import EXECUTORS
    from gtacli.runtime.processes import process_info

    EXECUTORS.origin(name)  # report a wrong name before anything is loaded
    if process_info().size > 1:
        raise UsageError("not with several processes, which share the work too", option="executor")

    def run(model: LoadedModel, most: int, at_work: AtWork) -> None:
        own = {"model": model.spec, "compare": [], "cache": cache, "precision": compute.precision}
        others = dict.fromkeys(("executor", "jobs", "out"))
        part = config.model_copy(update={**own, **others, "executors": {}, "overwrite": False})
        folder, options = cache.with_name(f"{cache.name}-shards"), config.executors.get(name, {})
        run_shards(
            name,
            options,
            config.jobs,
            call.command,
            part,
            folder=folder,
            most=most,
            at_work=at_work,
        )

    return run


def count_images(result: dict[str, Any]) -> str:
    """Return the line with the numbers of images of a result."""
    where = {"test": "", "val": " (its validation split)", "held-out": " (held out of training)"}
    train = f"{result['n_train']:,} training images, " if result["n_train"] else ""
    return f"{train}{result['n_test']:,} to test on{where[result['test_part']]}"
