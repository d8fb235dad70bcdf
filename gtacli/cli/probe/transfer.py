"""`gta probe transfer`: k-NN and linear accuracy on several datasets in one table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.probe.features import FEATURES, SHARED, count_images, measure_models
from gtacli.cli.probe.results import open_folder, print_results
from gtacli.cli.probe.table import ModelMetric, show_metrics
from gtacli.config.probe.transfer import TransferProbeConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import ProbeData, ProbeResult

METHODS = {"knn": "k-NN", "linear": "linear"}


def transfer(config: TransferProbeConfig, call: Call) -> int:
    """Measure k-NN and linear accuracy on several datasets.

    As `gta probe knn` and `gta probe linear`, with a row for each dataset and one for their mean;
    the linear classifier is chosen on validation or held-out training images. With --compare each
    model is tested against --model on the same images (McNemar's test). Images that cannot be read
    are reported, the others are processed, and the exit status is 1.
    """
    if not config.data:
        raise UsageError("name one or more labeled datasets", option="data")
    if len(set(config.data)) < len(config.data):
        raise UsageError("a dataset is named twice", option="data")
    from gtacli.data.spec import load_dataset
    from gtacli.models.names import short_names
    from gtacli.probing.features.evaluation import make_splits
    from gtacli.runtime.distribution import join_processes
    from gtacli.runtime.run_folder import RunFolder, default_out

    for data in config.data:  # report what is wrong before any model is loaded
        make_splits(load_dataset(data), config.seed)

    def measure(data: ProbeData, model: LoadedModel) -> ProbeResult:
        from gtacli.probing.transfer import transfer

        return transfer(data, model, config.k, config.linear, config.chooses_features)

    results: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    with join_processes() as processes:
        named = config.out
        out = named or processes.run_on_main(lambda: default_out("probe-transfer", call.dry_run))
        call.own(RunFolder(out, call.dry_run, processes))
        cache = config.cache or (SHARED if named is None else out / FEATURES)
        for data in config.data:
            one = config.for_dataset(data, out, cache)
            found, failed = measure_models(one, call, measure, processes=processes)
            results += found
            skipped |= {f"{data}: {key}": reason for key, reason in failed.items()}
        # Overwrites run.json with the user's config.
        open_folder(config.model_copy(update={"out": out}), call, "transfer", processes)

    def show() -> None:
        specs = list(dict.fromkeys(result["model"] for result in results))
        names = dict(zip(config.data, short_names(config.data), strict=True))
        for data, name in names.items():
            console.say(f"{name}: {count_images(_select(results, data=data)[0])}")
        rows = [_rows(names, _select(results, model=spec)) for spec in specs]
        show_metrics(short_names(specs), rows)

    print_results(call, results, show, skipped)
    return 1 if skipped else 0


def _select(results: Sequence[dict[str, Any]], **values: str) -> list[dict[str, Any]]:
    return [r for r in results if all(r[key] == value for key, value in values.items())]


def _rows(names: dict[str, str], results: Sequence[dict[str, Any]]) -> list[ModelMetric]:
    """Return the rows of one model."""
    rows: list[ModelMetric] = []
    for method, label in METHODS.items():
        of_method = [result for result in results if method in result]
        for result in of_method:
            name, test = names[result["data"]], result.get("compared", {}).get(method)
            interval = result[f"{method}_interval"]
            rows.append(ModelMetric(f"{name}, {label}", result[method], interval, test))
        if len(of_method) > 1:
            rows.append(ModelMetric(f"mean, {label}", fmean(row[method] for row in of_method)))
    return rows
