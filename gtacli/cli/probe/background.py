"""`gta probe background`: how predictions change when backgrounds are exchanged."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.compute import start_compute
from gtacli.cli.default_model import with_model
from gtacli.cli.options import Images, NullSeparated
from gtacli.cli.probe.results import open_folder, print_results, write_results
from gtacli.cli.probe.table import ModelMetric, show_metrics
from gtacli.config.probe.background import BackgroundProbeConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.data.base import ImageDataset
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.backgrounds.probe import BackgroundProbe
    from gtacli.probing.backgrounds.sources import VariantSource
    from gtacli.probing.backgrounds.variants import ImageScenes
    from gtacli.probing.class_map import ClassMap

log = logging.getLogger(__name__)
OVERALL = {"bg_gap": "BG-Gap", "fg_consistency": "same prediction", "cosine": "cosine"}
"""Labels of the metrics that are not of a single variant."""


def background(
    config: BackgroundProbeConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Measure how much predictions depend on the background.

    Runs the model on each image as it is and with the object or its background removed or
    exchanged, as in ImageNet-9 (Xiao et al.): from its folders (--variants), or drawn from images
    with masks. BG-Gap: accuracy with a background of the same class minus that with one of any
    class. fg_consistency, without labels: the fraction of images with the same prediction on
    another background; that is the most likely class or, without a classifier, the nearest other
    image. cosine: of an image's features with both backgrounds.

    Images that cannot be read, or have no mask, are reported, the others are processed, and the
    exit status is 1. When interrupted it shows the results so far.
    """
    text = "name a ViT (a run of gta finetune, a timm name, ARCH@FILE)"
    config = with_model(config, config.data, text)
    from gtacli.cli.follow import follow
    from gtacli.models import load_model
    from gtacli.models.register_search import with_registers
    from gtacli.probing.backgrounds.probe import BackgroundProbe
    from gtacli.probing.backgrounds.sources import MaskedImageVariants
    from gtacli.runtime.distribution import ALONE

    compute = start_compute(config)
    source = _source(config, images or [], null)
    assert config.model is not None
    specs = [config.model, *config.compare]
    models = [
        with_registers(
            load_model(spec, image_size=config.image_size), config.registers, compute.device
        )
        for spec in specs
    ]
    maps = [_class_map(config, model, source.classes) for model in models]
    probe = BackgroundProbe(models, maps, compute)
    folder = open_folder(config, call, "background", ALONE, precision=compute.precision)
    start = perf_counter()
    most = config.batch_size if call.dry_run else None
    ending = follow(
        lambda stop: probe.run(source, config.batch_size, config.workers, most, stop),
        lambda count: None,
        call.json,
        label="running variants",
        total=None if call.dry_run else source.max_variants,
        size=lambda count: count,
    )
    if isinstance(source, MaskedImageVariants) and (alone := source.without_own_background()):
        log.warning("no image of %s has a background for mixed-same", ", ".join(alone))
    if probe.skipped:
        log.info("skipped %d images without an object and a background beside it", probe.skipped)
    results = _results(config, specs, probe, round(perf_counter() - start, 2))
    if any(result["n_test"] for result in results):
        write_results(folder, results)
    print_results(call, results, lambda: _show(specs, results))
    return ending.status


def _source(config: BackgroundProbeConfig, images: list[str], null: bool) -> VariantSource:
    from gtacli.data.inputs import iter_images
    from gtacli.data.unlabeled import load_with_labels
    from gtacli.probing.backgrounds.sources import FolderVariants, MaskedImageVariants
    from gtacli.probing.backgrounds.variants import ImageScenes

    ways = {"`variants`": config.variants, "`data`": config.data, "images": images or None}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        found = f"{' and '.join(given)} are" if given else "nothing is"
        raise UsageError(f"give one of images with `masks`, `data`, `variants`: {found} given")
    if config.masks is not None:
        from gtacli.data.truth import check_truth

        check_truth(config.masks, "masks")
    if config.backgrounds == "train" and config.data is None:
        raise UsageError("train needs `data`, which has training images", option="backgrounds")
    if config.variants is not None:
        if config.masks is not None:
            raise UsageError("is for images or `data`; `variants` needs no masks", option="masks")
        return FolderVariants(config.variants)
    if config.data is not None:
        scenes, backgrounds, classes = _scenes(config, load_with_labels(config.data))
        return MaskedImageVariants(scenes, classes, backgrounds, config.seed)
    if config.masks is None:
        raise UsageError("name the folder of the images' masks", option="masks")
    named = [*iter_images(images, sys.stdin.buffer, null)]
    return MaskedImageVariants(ImageScenes(named, config.masks), (), seed=config.seed)


def _scenes(
    config: BackgroundProbeConfig, dataset: ImageDataset
) -> tuple[ImageScenes, ImageScenes | None, Sequence[str]]:
    """Return (scenes with the objects, scenes with the backgrounds, names of the classes)."""
    from gtacli.data.base import NO_CLASS
    from gtacli.data.inputs import iter_dataset_images
    from gtacli.probing.backgrounds.variants import ImageScenes

    split = next(split for split in ("test", "val", "train") if dataset[split])
    if config.masks is None and all(record.mask is None for record in dataset[split]):
        raise UsageError(
            f"{config.data} has no masks of its own; name a folder of them", option="masks"
        )
    if config.backgrounds == "train" and not dataset["train"]:
        raise UsageError(f"{config.data} has no training images", option="backgrounds")
    log.info("%d images of the split %s", len(dataset[split]), split)
    scenes, train = (
        ImageScenes([*iter_dataset_images(dataset, name)], config.masks)
        for name in (split, "train")
    )
    classes = () if dataset.classes == NO_CLASS else dataset.classes
    return scenes, train if config.backgrounds == "train" else None, classes


def _class_map(
    config: BackgroundProbeConfig, model: LoadedModel, classes: Sequence[str]
) -> ClassMap | None:
    """Map a model's outputs to the images' classes; None if it does not know them."""
    from gtacli.inference.predict import has_classifier
    from gtacli.probing.class_map import (
        count_outputs,
        match_outputs,
        output_names,
        read_class_map,
    )

    if not classes:
        return None
    if not has_classifier(model):
        log.info("%s has no classifier: no accuracies of it", model.spec)
        return None
    # Names say which class an output is, the mapping does too, and the number of outputs does not.
    if config.mapping is not None and not output_names(model):
        return read_class_map(model, config.mapping, classes)
    found = match_outputs(model, classes)
    if found is not None:
        return found
    if config.mapping is not None:
        return read_class_map(model, config.mapping, classes)
    mismatch = f"{model.spec} has {count_outputs(model)} classes, not the images' {len(classes)}"
    if config.variants is not None:
        raise UsageError(f"{mismatch}; give the published in_to_in9.json", option="mapping")
    log.warning("%s: no accuracies of it (`mapping` gives the classes of its outputs)", mismatch)
    return None


def _results(
    config: BackgroundProbeConfig, specs: Sequence[str], probe: BackgroundProbe, seconds: float
) -> list[dict[str, Any]]:
    from gtacli.probing.backgrounds.metrics import background_metrics, compare_predictions

    results: list[dict[str, Any]] = []
    for spec, predictions in zip(specs, probe.predictions, strict=True):
        result = {
            "task": "background",
            "model": spec,
            "reference": config.model if results else None,
            "data": str(config.variants or config.data or config.masks),
            **background_metrics(predictions),
            "left_out": probe.skipped,
            "seconds": seconds,
        }
        if results:
            differences = compare_predictions(predictions, probe.predictions[0], config.seed)
            result["compared"] = {name: d._asdict() for name, d in differences.items()}
        results.append(result)
    return results


def _show(specs: Sequence[str], results: Sequence[dict[str, Any]]) -> None:
    from gtacli.models.names import short_names

    console.say(f"images {max(result['n_test'] for result in results)}")
    show_metrics(short_names(specs), [_rows(result) for result in results])


def _rows(result: dict[str, Any]) -> list[ModelMetric]:
    tests = result.get("compared", {})
    variants = [
        ModelMetric(name, accuracy["top1"], accuracy["top1_interval"], tests.get(name))
        for name, accuracy in (result["variants"] or {}).items()
    ]
    overall = [
        ModelMetric(label, result[name], result[f"{name}_interval"], tests.get(name))
        for name, label in OVERALL.items()
        if result[name] is not None
    ]
    return variants + overall
