"""`gta embed`: a vector for each image, in a file for a database, a notebook or a search index."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.default_model import with_model
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Images, NullSeparated, config_command
from gtacli.config.embed import FORMATS, EmbedConfig
from gtacli.errors import RunError, UsageError

if TYPE_CHECKING:
    from gtacli.inference.embedding_files import EmbeddingFile
    from gtacli.inference.embeddings import ImageSource
    from gtacli.inference.features import FeatureExtractor
    from gtacli.inference.results import EmbedSummary
    from gtacli.inference.stream import Failure

app = new_app()
SECONDS = 30.0  # between progress lines without a terminal


@config_command(app, EmbedConfig, "embed", dry_run=False)
def embed(
    config: EmbedConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Compute embeddings: a vector for each image, in one file.

    Images are preprocessed as by the probes: the shorter side resized to 256/224 of the input, the
    center cut out. An image that cannot be read is reported and is not in the file; the exit
    status is 1.
    """
    config = with_model(config, None if images else config.data)
    kind = _check(config, images or [])
    from gtacli.cli.follow import follow
    from gtacli.inference.embedding_files import write_embeddings
    from gtacli.inference.embeddings import embed as run
    from gtacli.runtime.atomic import check_writable
    from gtacli.runtime.run_folder import default_out

    sources = _sources(config, images or [], null)
    out = config.out or default_out("embed") / f"embeddings.{kind}"
    check_writable(out)
    extractor = _extractor(config)
    start, failed = perf_counter(), 0
    file: EmbeddingFile | None = None

    def fill(opened: EmbeddingFile) -> int:
        nonlocal file, failed
        file = opened
        ending = follow(
            lambda stop: run(extractor, sources, config.normalize, stop),
            opened.add,
            call.json,
            label="images",
            every=SECONDS,
            interrupted="interrupted; the file has the images so far",
        )
        failed = ending.failed
        if failed and not opened.count and out.exists():
            raise RunError(f"no image could be read; {out} stays as it was", option="overwrite")
        return ending.status

    status = write_embeddings(out, kind, fill)
    assert file is not None
    summary: EmbedSummary = {
        "file": str(out),
        "format": kind,
        "images": file.count,
        "failed": failed,
        "dimensions": file.width,
        "bytes": out.stat().st_size,
        "images_per_second": file.count / max(perf_counter() - start, 1e-9),
    }
    if call.json:
        console.emit(summary)
    else:
        console.say(f"{out}\t{file.count} images, {file.width} numbers each")
    return status


def _check(config: EmbedConfig, images: list[str]) -> str:
    """Report wrong options before anything is loaded; return the form of the file."""
    if config.out is not None and config.out.is_dir():
        raise UsageError(f"{config.out} is a folder; name a file in it", option="out")
    if config.out is not None and config.out.exists() and not config.overwrite:
        raise UsageError(f"{config.out} exists; `overwrite` replaces it", option="out")
    if config.kind is None:
        known = ", ".join(FORMATS)
        raise UsageError(f"{config.out} has no suffix of {known}; `format` says it", option="out")
    if not images and config.data is None:
        raise UsageError(
            "no images: give files, folders, patterns, - for paths on stdin, or the option `data`"
        )
    return config.kind


def _sources(config: EmbedConfig, images: list[str], null: bool) -> Iterator[ImageSource | Failure]:
    """List the named images, and after them those of a dataset."""
    from gtacli.data.inputs import iter_images
    from gtacli.data.spec import find_stream
    from gtacli.data.unlabeled import load_with_labels
    from gtacli.inference.embeddings import sources_in, sources_in_stream, sources_of

    named = sources_of(iter_images(images, sys.stdin.buffer, null) if images else iter(()))
    if config.data is None:
        return named
    stream = find_stream(config.data)
    if stream is not None:
        return chain(named, sources_in_stream(stream))
    return chain(named, sources_in(load_with_labels(config.data)))


def _extractor(config: EmbedConfig) -> FeatureExtractor:
    from gtacli.inference.features import FeatureExtractor
    from gtacli.models import load_model
    from gtacli.models.feature_columns import select_columns
    from gtacli.runtime.devices import choose_compute

    compute = choose_compute(config.device, config.precision).frozen
    assert config.model is not None
    model = load_model(config.model, image_size=config.image_size)
    columns = select_columns(model.model, config.features, config.layer)
    return FeatureExtractor(model, columns, compute, config.batch_size, config.workers)
