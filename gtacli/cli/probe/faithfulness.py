"""`gta probe attention --faithfulness`: which map shows what the answer rests on."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.compute import start_compute
from gtacli.cli.probe.results import print_results
from gtacli.config.attention_map import AttentionMapConfig, find_kind
from gtacli.config.probe.attention import AttentionProbeConfig
from gtacli.errors import errors_about

if TYPE_CHECKING:
    from gtacli.inference.attention_maps.base import MapMethod
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.results import FaithfulnessResult

log = logging.getLogger(__name__)
_FILLS = {"mean": "the image's mean color", "blur": "the blurred image"}


def faithfulness(
    config: AttentionProbeConfig, call: Call, images: Sequence[str], null: bool
) -> int:
    """Measure insertion and deletion of kinds of maps; return the exit status."""
    from gtacli.cli.follow import follow
    from gtacli.data.inputs import iter_inputs
    from gtacli.data.unlabeled import load_images
    from gtacli.models import load_model
    from gtacli.models.register_search import with_registers
    from gtacli.probing.faithfulness import FaithfulnessProbe
    from gtacli.runtime.run_folder import RunFolder, default_out, environment

    with errors_about("kinds"):
        for kind in config.kinds or ():
            find_kind(kind)
    dataset = None if config.data is None else load_images(config.data, every_split=True)
    named = list(iter_inputs(images, dataset, sys.stdin.buffer, null))
    folder = RunFolder(config.out or default_out("probe-attention", call.dry_run), call.dry_run)
    call.own(folder)
    folder.check_free(config.overwrite, resumable=False)
    compute = start_compute(config)
    assert config.model is not None
    results: list[FaithfulnessResult] = []
    status = 0
    for spec in (config.model, *config.compare):
        loaded = load_model(spec, image_size=config.image_size)
        model = with_registers(loaded, config.registers, compute.device)
        methods = _make_methods(config, model)
        probe = FaithfulnessProbe(model, methods, config.fill, config.steps, compute)
        if not results:
            record = {"command": "probe attention", "config": config.model_dump(mode="json")}
            folder.write_json("run.json", {**record, **environment()})
        start = perf_counter()
        ending = follow(
            lambda stop, probe=probe: probe.run(  # type: ignore[misc]
                islice(named, config.batch_size) if call.dry_run else named,
                config.batch_size,
                config.workers,
                stop,
            ),
            lambda image: None,
            call.json,
            label="measuring images",
        )
        status = max(status, ending.status)
        seconds = round(perf_counter() - start, 2)
        about = {"task": "faithfulness", "model": spec, "reference": None, "data": config.data}
        how = {"fill": config.fill, "image_size": list(model.image_size), "seconds": seconds}
        results += [{**about, **metrics, **how} for metrics in probe.results()]  # type: ignore[typeddict-item]
        if status == 130:
            break
    if results:
        folder.write_json("summary.json", {"results": results})
    print_results(call, results, lambda: _show(results))
    return status


def _make_methods(config: AttentionProbeConfig, model: LoadedModel) -> Mapping[str, MapMethod]:
    """Return the methods that `gta attention-map` uses by default, by kind."""
    from gtacli.inference.attention_maps.make import make_method

    methods = {}
    for kind in _default_kinds(model) if config.kinds is None else config.kinds:
        drawn = AttentionMapConfig(kind=kind, style="raw", discovery=config.discovery)
        with errors_about(None, kind="kinds", backend="kinds"):
            methods[kind] = make_method(drawn, model)
    return methods


def _default_kinds(model: LoadedModel) -> list[str]:
    """Return all kinds of maps that a model can have, and the back-ends that show a class."""
    from gtacli.models.tap import has_cls
    from gtacli.registry import DISCOVERY, MAPS

    cls = has_cls(model.model)
    left_out = [name for name in MAPS.names() if MAPS.load(name).needs_cls and not cls]
    if left_out:
        log.warning("%s has no CLS token: without %s", model.spec, " and ".join(left_out))
    kinds = [name for name in MAPS.names() if name not in left_out]
    for name in DISCOVERY.names():
        options = DISCOVERY.declared_options(name)
        if options is not None and "target_class" in options.model_fields:
            kinds.append(name)
    return kinds


def _show(results: Sequence[FaithfulnessResult]) -> None:
    """Print a table for each model, the most faithful kind first."""
    if not results:
        return
    first = results[0]
    several = len({result["model"] for result in results}) > 1
    console.say(f"images {first['n_images']}, patches replaced by {_FILLS[first['fill']]}")
    for spec in dict.fromkeys(result["model"] for result in results):
        rows = [result for result in results if result["model"] == spec]
        rows.sort(key=lambda result: result["gap"], reverse=True)
        if several:
            console.say(spec)
        columns = ["kind", "insertion %", "95 %", "deletion %", "95 %", "gap %", "95 %", "p"]
        console.table(columns, [_row(result, rows[0]) for result in rows])


def _row(result: FaithfulnessResult, best: FaithfulnessResult) -> list[Any]:
    """Return a kind's row; p is that of the gap's difference from the best kind."""
    cells: list[Any] = [result["kind"]]
    for metric in ("insertion", "deletion", "gap"):
        low, high = result[f"{metric}_interval"]  # type: ignore[literal-required]
        cells.append(f"{100 * result[metric]:.1f}")
        # Of one image there is no interval.
        cells.append(None if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}")
    test = result["against"].get(best["kind"])
    return [*cells, None if test is None else f"{test['gap']['p']:.4f}"]
