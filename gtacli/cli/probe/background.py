"""`gta probe background`: what becomes of the answers when backgrounds are exchanged."""

from __future__ import annotations

import logging
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.options import Call, Images, NullSeparated
from gtacli.cli.probe.features import open_folder, record
from gtacli.config.probe_background import BackgroundProbeConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gtacli.data.base import ImageDataset
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.backgrounds.probe import BackgroundProbe
    from gtacli.probing.backgrounds.sources import VariantSource
    from gtacli.probing.backgrounds.variants import ImageScenes
    from gtacli.probing.class_map import ClassMap

log = logging.getLogger(__name__)
FURTHER = {"bg_gap": "BG-Gap", "fg_consistency": "same answer", "cosine": "cosine"}
"""The figures that no variant has by itself, and what people call them."""


def background(
    config: BackgroundProbeConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Does the background make the answer?

    Shows the model each image as it is and with the object or its background taken away or
    exchanged, as ImageNet-9 has them (Xiao et al.): from its folders (--variants), or drawn of
    images that have masks. BG-Gap: accuracy with a background of the same class less that with one
    of any class. fg_consistency, without labels: the share of images whose answer stays the same
    with another background; the answer is the likeliest class, or, of a model without a classifier,
    the nearest other image. cosine: of an image's features with one and the other background.

    Images that cannot be read, or have no mask, are named, the rest is done, and the exit status is
    1. Interrupted, it shows what it has measured so far.
    """
    if config.model is None:
        raise UsageError("--model: name a ViT (a run of gta finetune, a timm name, ARCH@FILE)")
    from gtacli.inference.stream import Failure
    from gtacli.models import load_model
    from gtacli.probing.backgrounds.probe import BackgroundProbe
    from gtacli.runtime.devices import choose_compute
    from gtacli.runtime.distribution import ALONE
    from gtacli.runtime.interrupts import StopSignal

    compute = choose_compute(config.device, config.precision)
    source = _source(config, images or [], null)
    specs = [config.model, *config.compare]
    models = [load_model(spec, image_size=config.image_size) for spec in specs]
    maps = [_class_map(config, model, source.classes) for model in models]
    probe = BackgroundProbe(models, maps, compute)
    folder = open_folder(config, call, "background", ALONE)
    start, status = perf_counter(), 0
    most = config.batch_size if call.dry_run else None
    pictures = None if call.dry_run else source.pictures
    with (
        StopSignal() as stop,
        console.progress("looking", pictures) as advance,
    ):
        for done in probe.see(source, config.batch_size, config.workers, most):
            if isinstance(done, Failure):
                status = 1
                log.warning("%s", done.error)
                if call.json:
                    console.emit({"image": done.image, "error": done.error})
            else:
                advance(done)
            if stop.requested:
                status = 130
                log.warning("interrupted; these are the images so far")
                break
    if probe.left_out:
        log.info("left out: %d images without an object and a background beside it", probe.left_out)
    results = _results(config, specs, probe, round(perf_counter() - start, 2))
    if any(result["n_test"] for result in results):
        record(folder, results)
    if call.json:
        for result in results:
            console.emit(result)
    else:
        _show(specs, results)
    return status


def _source(config: BackgroundProbeConfig, images: list[str], null: bool) -> VariantSource:
    from gtacli.data.inputs import iter_images
    from gtacli.data.spec import load_dataset
    from gtacli.probing.backgrounds.sources import BuiltVariants, FolderVariants
    from gtacli.probing.backgrounds.variants import ImageScenes

    given = {"--variants": config.variants, "--data": config.data, "images": images or None}
    ways = [name for name, value in given.items() if value is not None]
    if len(ways) != 1:
        found = f"{' and '.join(ways)} are" if ways else "nothing is"
        raise UsageError(f"give one of images with --masks, --data, --variants: {found} given")
    if config.masks is not None and not config.masks.is_dir():
        raise UsageError(f"--masks: no folder {config.masks}")
    if config.backgrounds == "train" and config.data is None:
        raise UsageError("--backgrounds train is for --data, which has training images")
    if config.variants is not None:
        if config.masks is not None:
            raise UsageError("--masks is for images or --data; --variants DIR needs no masks")
        return FolderVariants(config.variants)
    if config.data is not None:
        scenes, backgrounds, classes = _scenes(config, load_dataset(config.data))
        return BuiltVariants(scenes, classes, backgrounds, config.seed)
    if config.masks is None:
        raise UsageError("--masks: name the folder of the images' masks")
    named = [*iter_images(images, sys.stdin.buffer, null)]
    return BuiltVariants(ImageScenes(named, config.masks), (), seed=config.seed)


def _scenes(
    config: BackgroundProbeConfig, dataset: ImageDataset
) -> tuple[ImageScenes, ImageScenes | None, Sequence[str]]:
    """(whose objects, whose backgrounds, names of the classes)"""
    from gtacli.data.inputs import iter_dataset_images
    from gtacli.probing.backgrounds.variants import ImageScenes

    part = next(part for part in ("test", "val", "train") if dataset[part])
    if config.masks is None and all(record.mask is None for record in dataset[part]):
        raise UsageError(f"--masks: {config.data} has no masks of its own; name a folder of them")
    if config.backgrounds == "train" and not dataset["train"]:
        raise UsageError(f"--backgrounds train: {config.data} has no training images")
    log.info("%d images of the part %s", len(dataset[part]), part)
    scenes, train = (
        ImageScenes([*iter_dataset_images(dataset, name)], config.masks) for name in (part, "train")
    )
    return scenes, train if config.backgrounds == "train" else None, dataset.classes


def _class_map(
    config: BackgroundProbeConfig, model: LoadedModel, classes: Sequence[str]
) -> ClassMap | None:
    """What a model's outputs mean; None where it cannot tell the images' classes."""
    from gtacli.inference.predict import has_classifier
    from gtacli.probing.class_map import mapped, matched, outputs

    if not classes:
        return None
    if not has_classifier(model):
        log.info("%s has no classifier: no accuracies of it", model.spec)
        return None
    found = matched(model, classes)
    if found is not None:
        return found
    if config.mapping is not None:
        return mapped(model, config.mapping, classes)
    told = f"{model.spec} tells {outputs(model)} classes apart, not the images' {len(classes)}"
    if config.variants is not None:
        raise UsageError(f"--mapping: {told}; give the published in_to_in9.json")
    log.warning("%s: no accuracies of it (--mapping FILE maps them)", told)
    return None


def _results(
    config: BackgroundProbeConfig, specs: Sequence[str], probe: BackgroundProbe, seconds: float
) -> list[dict[str, Any]]:
    from gtacli.probing.backgrounds.metrics import compared, figures

    found: list[dict[str, Any]] = []
    for spec, answers in zip(specs, probe.answers, strict=True):
        result = {
            "task": "background",
            "model": spec,
            "reference": config.model if found else None,
            "data": str(config.variants or config.data or config.masks),
            **figures(answers),
            "left_out": probe.left_out,
            "seconds": seconds,
        }
        if found:
            differences = compared(answers, probe.answers[0], config.seed)
            result["compared"] = {name: d._asdict() for name, d in differences.items()}
        found.append(result)
    return found


def _show(specs: Sequence[str], results: Sequence[dict[str, Any]]) -> None:
    from gtacli.cli.probe.table import Figure, show_figures
    from gtacli.models.names import short_names

    figures = []
    for result in results:
        tests = result.get("compared", {})
        shares = [
            Figure(name, share["top1"], share["top1_interval"], tests.get(name))
            for name, share in (result["variants"] or {}).items()
        ]
        further = [
            Figure(label, result[name], result[f"{name}_interval"], tests.get(name))
            for name, label in FURTHER.items()
            if result[name] is not None
        ]
        figures.append(shares + further)
    console.say(f"images {max(result['n_test'] for result in results)}")
    show_figures(short_names(specs), figures)
