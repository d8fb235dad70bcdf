"""`gta discover`: object maps of many images, computed once and cached."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.compute import start_compute
from gtacli.cli.default_model import with_model
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Images, NullSeparated, config_command
from gtacli.config.discover import DiscoverConfig
from gtacli.errors import UsageError
from gtacli.images.sources import ImageList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gtacli.data.streams.stream import ImageStream
    from gtacli.discovery.maps.writer import MapWriter
    from gtacli.inference.discover import CacheStep
    from gtacli.inference.objects import Finder
    from gtacli.inference.results import DiscoverSummary
    from gtacli.inference.stream import Failure, Stop
    from gtacli.runtime.devices import Compute

app = new_app()
SECONDS = 30.0
"""Time between two progress lines, where there is no terminal."""


@config_command(app, DiscoverConfig, "discover")
def discover(
    config: DiscoverConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Find the object in every image, once, and cache the maps for training.

    A map is identified by the bytes of its image and by the model, back-end and options: moved
    images keep theirs, changed ones get new ones. After an interruption at any moment, the same
    command continues. An image that cannot be read is reported, and the others are processed; the
    exit status is 1.
    """
    config = with_model(config, config.data, option="teacher")
    if config.out is None:
        raise UsageError("name the folder of the maps; an earlier one is added to", option="out")
    out = config.out
    if config.overwrite and config.shard[1] > 1:
        raise UsageError(
            "not with `shard`: it would remove what the others write", option="overwrite"
        )
    if config.executor is not None and (config.shard[1] > 1 or config.overwrite):
        raise UsageError("not with `shard` or `overwrite`", option="executor")
    from gtacli.registry import DISCOVERY

    DISCOVERY.origin(config.backend)  # report a wrong name before anything is loaded
    compute = _choose_compute(config, out)
    from gtacli.discovery.maps.folder import check_free
    from gtacli.discovery.maps.writer import BLOCKS, MAPS_A_FILE, MapWriter, block_size

    check_free(out)
    if config.executor is not None and "-" in (images or []):
        text = "takes no images from stdin, which its commands do not share; name files"
        raise UsageError(text, option="executor")
    sources = _sources(images or [], config.data, null)
    earlier = (0, 0.0)
    if config.executor is not None and not call.dry_run:
        # All parts with the same precision, whatever the machines that they run on.
        part = config.model_copy(update={"precision": compute.precision})
        most = None
        if isinstance(sources, ImageList):
            most = max(1, -(-len(sources) // block_size(len(sources))))
        earlier = _run_shards(part, config.executor, images or [], most)
        # What is left, such as the images of a part that was killed, and the summary.
        config = config.model_copy(update={"overwrite": False})
    from gtacli.discovery.build import make_backend
    from gtacli.inference.discover import manifest_of
    from gtacli.inference.objects import Finder
    from gtacli.models import load_model
    from gtacli.models.register_search import with_registers

    assert config.spec is not None
    model = load_model(config.spec, image_size=config.image_size)
    model.model.to(compute.device)
    model = with_registers(model, config.registers, compute.device)
    backend = make_backend(config.backend, config.options, model)
    manifest = manifest_of(model, config.backend, backend, compute)
    finder = Finder(model, backend, compute)
    with ExitStack() as stack:
        if call.dry_run:
            out = Path(stack.enter_context(TemporaryDirectory()))
            if isinstance(sources, ImageList):
                sources = sources[: config.batch_size]
        # A stream is as long as it may be: its files are as large as they get.
        count = len(sources) if isinstance(sources, ImageList) else BLOCKS * MAPS_A_FILE
        cache = MapWriter(out, manifest, block_size(count), config.shard, config.overwrite)
        status, summary = _fill(config, call, finder, sources, cache, earlier)
    if call.json:
        console.emit(summary)
    else:
        console.table(("result", ""), [(k.replace("_", " "), v) for k, v in summary.items()])
    return status


def _choose_compute(config: DiscoverConfig, out: Path) -> Compute:
    """Return the device; by itself, with the precision of the maps that are there already."""
    from gtacli.discovery.maps.manifest import MANIFEST, read_manifest

    compute = start_compute(config).frozen
    if config.precision != "auto" or config.overwrite or not (out / MANIFEST).exists():
        return compute
    return compute.at(read_manifest(out).precision)


def _run_shards(
    config: DiscoverConfig, executor: str, images: list[str], most: int | None
) -> tuple[int, float]:
    """Compute all maps in parts, `most` at most; return their number and the seconds it took."""
    from gtacli.cli.shards import run_shards
    from gtacli.discovery.maps.folder import is_at_work

    assert config.out is not None
    start, before = perf_counter(), _count_maps(config.out)
    out, options = config.out, config.executors.get(executor, {})
    own: dict[str, object] = {"executor": None, "executors": {}, "jobs": None, "overwrite": False}
    run_shards(
        executor,
        options,
        config.jobs,
        "discover",
        config.model_copy(update=own),
        images,
        folder=out.with_name(f"{out.name}-shards"),
        most=most,
        at_work=lambda shard: is_at_work(out, shard),
    )
    return max(0, _count_maps(out) - before), perf_counter() - start


def _count_maps(folder: Path) -> int:
    from gtacli.discovery.maps import MapCache
    from gtacli.discovery.maps.manifest import MANIFEST

    return len(MapCache(folder, skip_damaged=True)) if (folder / MANIFEST).is_file() else 0


def _sources(given: list[str], data: str | None, null: bool) -> ImageList | ImageStream:
    if bool(given) == (data is not None):
        raise UsageError("give either images (files, folders, patterns, -) or `data`")
    from gtacli.data.inputs import iter_paths, list_sources
    from gtacli.data.spec import find_stream

    if data is not None:
        stream = find_stream(data)
        return list_sources(data) if stream is None else stream
    return ImageList(iter_paths(given, sys.stdin.buffer, null))


def _fill(
    config: DiscoverConfig,
    call: Call,
    finder: Finder,
    sources: ImageList | ImageStream,
    cache: MapWriter,
    earlier: tuple[int, float],
) -> tuple[int, DiscoverSummary]:
    """Fill the cache; return the exit status and the summary.

    Args:
        earlier: maps that were computed in parts before, and the seconds that it took.
    """
    from gtacli.cli.follow import follow
    from gtacli.discovery.maps.folder import size_of
    from gtacli.inference.discover import fill_cache, fill_cache_from_stream

    new, seconds = earlier
    listed = isinstance(sources, ImageList)

    def count(step: CacheStep) -> None:
        nonlocal new
        new += step.new

    def begin(stop: Stop) -> Iterator[CacheStep | Failure]:
        size, threads = config.batch_size, config.workers
        if isinstance(sources, ImageList):
            return fill_cache(finder, sources, cache, size, threads, stop)
        most = size if call.dry_run else None
        return fill_cache_from_stream(finder, sources, cache, size, threads, stop, most)

    start = perf_counter()
    ending = follow(
        begin,
        count,
        call.json,
        label="maps",
        total=sum(map(len, cache.blocks(len(sources)))) if listed else None,
        every=SECONDS,
        size=lambda step: step.images,
        interrupted="interrupted; the maps so far are cached, and the same command continues",
    )
    images = ending.done + ending.failed
    return ending.status, {
        "cache": str(config.out),
        "images": images,
        "new": new,
        "failed": ending.failed,
        "bytes": size_of(cache.folder),
        "images_per_second": images / max(seconds + perf_counter() - start, 1e-9),
    }
