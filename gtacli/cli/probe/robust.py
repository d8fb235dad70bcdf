"""`gta probe robust`: accuracy of ImageNet classifiers on other distributions of images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli.call import Call
from gtacli.cli.compute import start_compute
from gtacli.cli.probe.results import open_folder, print_results, write_results
from gtacli.cli.probe.table import ModelMetric, show_metrics
from gtacli.config.probe.robust import RobustProbeConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.cli.follow import Ending
    from gtacli.probing.robust import ImageSet, RobustProbe

log = logging.getLogger(__name__)
SETS = {
    "imagenet": "ImageNet",
    "v2": "ImageNet-V2",
    "sketch": "ImageNet-Sketch",
    "r": "ImageNet-R",
    "a": "ImageNet-A",
    "cue-conflict": "cue conflict",
}


def robust(config: RobustProbeConfig, call: Call) -> int:
    """Measure ImageNet accuracy under distribution shift.

    ImageNet-V2, -Sketch, -R and -A, as published; for -R and -A only the outputs of their 200
    classes count. For images with the shape of one class and the texture of another the shape bias:
    the fraction of predictions by shape among those by shape or texture.

    With --compare each model is tested against --model image by image (McNemar's test). Images that
    cannot be read are reported, the others are processed, and the exit status is 1. When
    interrupted it shows the finished datasets.
    """
    if config.model is None:
        raise UsageError("name a classifier of ImageNet (a timm name, ARCH@FILE)", option="model")
    from gtacli.models import load_model
    from gtacli.models.names import short_names
    from gtacli.models.register_search import with_registers
    from gtacli.probing.robust import RobustProbe
    from gtacli.runtime.distribution import ALONE

    compute = start_compute(config)
    sets = _read_sets(config)
    specs = [config.model, *config.compare]
    models = [
        with_registers(
            load_model(spec, image_size=config.image_size), config.registers, compute.device
        )
        for spec in specs
    ]
    probes = [RobustProbe(models, images, compute) for images in sets]
    folder = open_folder(config, call, "robust", ALONE, precision=compute.precision)
    results: list[dict[str, Any]] = []
    status = 0
    for probe in probes:
        start = perf_counter()
        ending = _follow(config, call, probe)
        status = max(status, ending.status)
        if ending.status == 130:
            break
        seconds = round(perf_counter() - start, 2)
        for spec, result in zip(specs, probe.results(), strict=True):
            reference = config.model if "compared" in result else None
            about = {"task": "robust", "model": spec, "reference": reference}
            results.append({**about, "data": probe.images.name, **result, "seconds": seconds})
        write_results(folder, results)

    def show() -> None:
        if results:
            by_model = [results[m :: len(specs)] for m in range(len(specs))]
            show_metrics(short_names(specs), [_rows(of_model) for of_model in by_model])

    print_results(call, results, show)
    return status


def _follow(config: RobustProbeConfig, call: Call, probe: RobustProbe) -> Ending:
    from gtacli.cli.follow import follow

    name, most = SETS[probe.images.name], config.batch_size if call.dry_run else None
    return follow(
        lambda stop: probe.run(config.batch_size, config.workers, most, stop),
        lambda number: None,
        call.json,
        label=name,
        total=len(probe.images.images),
        interrupted=f"interrupted in {name}",
    )


def _read_sets(config: RobustProbeConfig) -> list[ImageSet]:
    from gtacli.probing.robust import SUBSETS, read_class_folders, read_cue_conflicts

    folders = {
        "imagenet": config.imagenet,
        "v2": config.imagenet_v2,
        "sketch": config.sketch,
        "r": config.imagenet_r,
        "a": config.imagenet_a,
    }
    sets = [read_class_folders(name, root) for name, root in folders.items() if root is not None]
    for images in sets:
        published = SUBSETS.get(images.name)
        if published is not None and len(images.classes) != published:
            log.warning(
                "%s has %d classes here, %d as published; predictions are restricted to these",
                SETS[images.name],
                len(images.classes),
                published,
            )
    if config.cue_conflict is not None:
        sets.append(read_cue_conflicts(config.cue_conflict))
    if not sets:
        raise UsageError("no images: give `imagenet_v2`, `sketch`, `cue_conflict`, ...")
    return sets


def _rows(results: Sequence[dict[str, Any]]) -> list[ModelMetric]:
    """Return the rows of one model."""
    rows: list[ModelMetric] = []
    for result in results:
        tests, name = result.get("compared", {}), SETS[result["data"]]
        if "shape_bias" not in result:
            test = tests.get("top1")
            rows.append(ModelMetric(name, result["top1"], result["top1_interval"], test))
            continue
        interval, test = result["shape_bias_interval"], tests.get("shape_bias")
        rows.append(ModelMetric("shape bias", result["shape_bias"], interval, test))
        rows.append(ModelMetric("decided by shape", result["by_shape"]))
        rows.append(ModelMetric("decided by texture", result["by_texture"]))
    return rows
