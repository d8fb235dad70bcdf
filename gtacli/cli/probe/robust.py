"""`gta probe robust`: ImageNet's classifiers on images that are unlike ImageNet's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.options import Call
from gtacli.cli.probe.features import open_folder, record
from gtacli.cli.probe.table import Figure, show_figures
from gtacli.config.probe_robust import RobustProbeConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.probing.robust import ImageSet

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
    """Does a classifier of ImageNet hold on other images?

    Accuracy on ImageNet-V2, -Sketch, -R and -A as published; of -R and -A only the outputs of their
    200 classes compete. On images with the shape of one thing and the texture of another the shape
    bias: how often the shape decided, of the times that either did.

    With --compare each model is tested against --model image by image (McNemar's test). Images that
    cannot be read are named, the rest is done, and the exit status is 1. Interrupted, it shows the
    sets that it has done.
    """
    if config.model is None:
        raise UsageError("--model: name a classifier of ImageNet (a timm name, ARCH@FILE)")
    from gtacli.inference.stream import Failure
    from gtacli.models import load_model
    from gtacli.models.names import short_names
    from gtacli.probing.robust import Asked
    from gtacli.runtime.devices import choose_compute
    from gtacli.runtime.distribution import ALONE
    from gtacli.runtime.interrupts import StopSignal

    compute = choose_compute(config.device, config.precision)
    sets = _sets(config)
    specs = [config.model, *config.compare]
    models = [load_model(spec, image_size=config.image_size) for spec in specs]
    asked = [Asked(models, images, compute) for images in sets]
    folder = open_folder(config, call, "robust", ALONE)
    results: list[dict[str, Any]] = []
    status, most = 0, config.batch_size if call.dry_run else None
    with StopSignal() as stop:
        for images, one in zip(sets, asked, strict=True):
            start = perf_counter()
            with console.progress(SETS[images.name], len(images.images)) as advance:
                for done in one.see(config.batch_size, config.workers, most):
                    if isinstance(done, Failure):
                        status = 1
                        log.warning("%s", done.error)
                        if call.json:
                            console.emit({"image": done.image, "error": done.error})
                    else:
                        advance(done)
                    if stop.requested:
                        break
            if stop.requested:
                status = 130
                log.warning("interrupted in %s", SETS[images.name])
                break
            seconds = round(perf_counter() - start, 2)
            for spec, result in zip(specs, one.results(), strict=True):
                reference = config.model if "compared" in result else None
                about = {"task": "robust", "model": spec, "reference": reference}
                results.append({**about, "data": images.name, **result, "seconds": seconds})
            record(folder, results)
    if call.json:
        for result in results:
            console.emit(result)
    elif results:
        by_model = [results[m :: len(specs)] for m in range(len(specs))]
        show_figures(short_names(specs), [_figures(of) for of in by_model])
    return status


def _sets(config: RobustProbeConfig) -> list[ImageSet]:
    from gtacli.probing.robust import SUBSETS, class_folders, cue_conflicts

    folders = {
        "imagenet": config.imagenet,
        "v2": config.imagenet_v2,
        "sketch": config.sketch,
        "r": config.imagenet_r,
        "a": config.imagenet_a,
    }
    sets = [class_folders(name, root) for name, root in folders.items() if root is not None]
    for images in sets:
        wanted = SUBSETS.get(images.name)
        if wanted is not None and len(images.classes) != wanted:
            log.warning(
                "%s has %d classes here, %d as published; only these compete",
                SETS[images.name],
                len(images.classes),
                wanted,
            )
    if config.cue_conflict is not None:
        sets.append(cue_conflicts(config.cue_conflict))
    if not sets:
        raise UsageError("no images: give --imagenet-v2, --sketch, --cue-conflict, ...")
    return sets


def _figures(results: Sequence[dict[str, Any]]) -> list[Figure]:
    """Of one model."""
    figures = []
    for result in results:
        tests, name = result.get("compared", {}), SETS[result["data"]]
        if "shape_bias" not in result:
            test = tests.get("top1")
            figures.append(Figure(name, result["top1"], result["top1_interval"], test))
            continue
        interval, test = result["shape_bias_interval"], tests.get("shape_bias")
        figures.append(Figure("shape bias", result["shape_bias"], interval, test))
        figures.append(Figure("told by shape", result["by_shape"]))
        figures.append(Figure("told by texture", result["by_texture"]))
    return figures
