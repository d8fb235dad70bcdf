"""`gta discover`: object maps of many images, found once and kept."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, Images, NullSeparated, config_command
from gtacli.config.discover import DiscoverConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.discovery.maps.digests import ImageFile
    from gtacli.discovery.maps.writer import MapWriter
    from gtacli.inference.objects import Finder

log = logging.getLogger(__name__)
app = new_app()
LINES = 30.0  # seconds between two, where there is no terminal


@config_command(app, DiscoverConfig, "discover")
def discover(
    config: DiscoverConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Find the object in every image, once, and keep the maps for training.

    A map belongs to the bytes of its image and to one model, back-end and set of options: moved
    images keep theirs, changed ones get new ones. Killed at any moment, the same command goes on.
    Images that cannot be read are named, the rest is done, and the exit status is 1.
    """
    if config.spec is None:
        raise UsageError(
            "--teacher: name a pre-trained ViT (vit_small_patch16_224.dino, a run folder, "
            "ARCH@FILE)"
        )
    if config.out is None:
        raise UsageError("--out: name the folder of the maps; an earlier one is added to")
    if config.overwrite and config.shard[1] > 1:
        raise UsageError("--overwrite: not with --shard, it would remove what the others write")
    from gtacli.registry import DISCOVERY

    DISCOVERY.origin(config.backend)  # a wrong name is said before anything is loaded
    from gtacli.discovery.build import make_backend
    from gtacli.discovery.maps.writer import MapWriter, block_size, check_free, remove_cache
    from gtacli.inference.discover import manifest_of
    from gtacli.inference.objects import Finder
    from gtacli.models import load_model
    from gtacli.runtime.devices import choose_compute

    compute = choose_compute(config.device, config.precision)
    check_free(config.out)
    sources = _sources(images or [], config.data, null)
    model = load_model(config.spec, image_size=config.image_size)
    model.model.to(compute.device)
    backend = make_backend(config.backend, config.options, model)
    manifest = manifest_of(model, config.backend, backend, compute)
    finder = Finder(model, backend, compute)
    with ExitStack() as stack:
        out = config.out
        if call.dry_run:
            out = Path(stack.enter_context(TemporaryDirectory()))
            sources = sources[: config.batch_size]
        elif config.overwrite:
            remove_cache(out)
        block = block_size(len(sources), config.batch_size, shared=config.shard[1] > 1)
        cache = MapWriter(out, manifest, block, config.shard)
        summary = _run(config, call, finder, sources, cache)
    if call.json:
        console.emit(summary)
    else:
        console.table(("result", ""), [(k.replace("_", " "), v) for k, v in summary.items()])
    return 1 if summary["failed"] else 0


def _sources(given: list[str], data: str | None, null: bool) -> list[ImageFile]:
    if bool(given) == (data is not None):
        raise UsageError("give either images (files, folders, patterns, -) or --data SPEC")
    from gtacli.data.inputs import iter_images, list_sources

    if data is not None:
        return list_sources(data)
    return [image.source for image in iter_images(given, sys.stdin.buffer, null)]


def _run(
    config: DiscoverConfig, call: Call, finder: Finder, sources: list[ImageFile], cache: MapWriter
) -> dict[str, Any]:
    from gtacli.discovery.maps.writer import size_of
    from gtacli.inference.discover import label
    from gtacli.runtime.interrupts import StopSignal

    done = new = failed = 0
    total = sum(map(len, cache.blocks(len(sources))))
    start = perf_counter()
    with StopSignal() as stop, console.progress("maps", total, LINES) as advance:
        steps = label(
            finder, sources, cache, config.batch_size, config.workers, lambda: stop.requested
        )
        for step in steps:
            done, new = done + step.images, new + step.new
            failed += len(step.failed)
            for image, error in step.failed:
                log.warning("%s", error)
                if call.json:
                    console.emit({"image": str(image), "error": error})
            advance(step.images)
    return {
        "cache": str(config.out),
        "images": done,
        "new": new,
        "failed": failed,
        "bytes": size_of(cache.folder),
        "images_per_second": done / (perf_counter() - start),
    }
