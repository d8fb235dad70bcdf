"""`gta probe transfer`: several data sets in one table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.options import Call
from gtacli.cli.probe.features import FEATURES, SHARED, counted, measured, open_folder, tell
from gtacli.cli.probe.table import Figure, show_figures
from gtacli.config.probe_transfer import TransferProbeConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import Bench, Outcome

METHODS = {"knn": "k-NN", "linear": "linear"}


def transfer(config: TransferProbeConfig, call: Call) -> int:
    """k-NN and linear accuracy on several data sets.

    As `gta probe knn` and `gta probe linear` measure them, a row each and their mean over the data
    sets; the linear classifier's learning rate and features are chosen on validation images, or
    training images held out. With --compare each model is tested against --model on the same images
    (McNemar's test). Images that cannot be read are named, the rest is done, and the exit status is
    1.
    """
    if not config.data:
        raise UsageError("--data: name labelled data sets (--data cub/ pets/ demo)")
    if len(set(config.data)) < len(config.data):
        raise UsageError("--data: a data set is named twice")
    from gtacli.data.spec import load_dataset
    from gtacli.models.names import short_names
    from gtacli.probing.features.evaluation import parts_of
    from gtacli.runtime.distribution import ALONE
    from gtacli.runtime.run_folder import default_out

    for data in config.data:  # all that can be wrong, before the first network
        parts_of(load_dataset(data), config.seed)

    def measure(bench: Bench, model: LoadedModel) -> Outcome:
        from gtacli.probing.transfer import transfer

        return transfer(bench, model, config.k, config.linear)

    out = config.out or default_out("probe-transfer")
    cache = config.cache or (SHARED if config.out is None else out / FEATURES)
    results: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for data in config.data:
        found, failed = measured(config.of(data, out, cache), call, measure)
        results += found
        skipped |= {f"{data}: {key}": reason for key, reason in failed.items()}
    open_folder(config.model_copy(update={"out": out}), call, "transfer", ALONE)  # as it was asked
    specs = list(dict.fromkeys(result["model"] for result in results))
    if tell(call, skipped, results):
        names = dict(zip(config.data, short_names(config.data), strict=True))
        for data, name in names.items():
            console.say(f"{name}: {counted(_of(results, data=data)[0])}")
        tables = [_figures(names, _of(results, model=spec)) for spec in specs]
        show_figures(short_names(specs), tables)
    return 1 if skipped else 0


def _of(results: Sequence[dict[str, Any]], **wanted: str) -> list[dict[str, Any]]:
    return [r for r in results if all(r[key] == value for key, value in wanted.items())]


def _figures(names: dict[str, str], results: Sequence[dict[str, Any]]) -> list[Figure]:
    """Of one model."""
    figures = []
    for method, label in METHODS.items():
        rows = [result for result in results if method in result]
        for result in rows:
            test = result.get("compared", {}).get(method)
            interval = result[f"{method}_interval"]
            figures.append(
                Figure(f"{names[result['data']]}, {label}", result[method], interval, test)
            )
        if len(rows) > 1:
            figures.append(Figure(f"mean, {label}", fmean(row[method] for row in rows)))
    return figures
