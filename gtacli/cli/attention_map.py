"""`gta attention-map`, also `gta attn-maps`: a picture and a line per attention map."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any

from gtacli.cli.call import Call
from gtacli.cli.compute import start_compute
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Images, NullSeparated, config_command
from gtacli.config.attention_map import AttentionMapConfig, find_kind
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.data.inputs import InputImage
    from gtacli.inference.results import AttentionMapFile
    from gtacli.inference.stream import Failure, Stop

log = logging.getLogger(__name__)
app = new_app()


@config_command(app, AttentionMapConfig, "attention-map")
def attention_map(
    config: AttentionMapConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Draw a ViT's attention maps of images: a picture (or an array) and a line per map.

    Files are called STEM.layerL.HEADS.png, and lie in the same subfolders as the images; of a
    single image, -o may name the file. An image
    that cannot be read is reported, and the others are processed; the exit status is 1. Without
    images and --model: the built-in demo's images and the newest run on them.
    """
    _check(config, images)
    from gtacli.cli.follow import follow, lines
    from gtacli.inference.attention_maps.export import export_maps
    from gtacli.inference.attention_maps.files import MapFiles
    from gtacli.inference.attention_maps.make import make_extractors
    from gtacli.inference.attention_maps.sheet import MapSheet
    from gtacli.inference.journal import ResultJournal, check_resumable
    from gtacli.inference.outputs import single_file
    from gtacli.inference.stream import Failure
    from gtacli.runtime.atomic import check_writable
    from gtacli.runtime.run_folder import RunFolder, default_out, environment

    compute = start_compute(config).frozen
    spec, named = _inputs(config.model, images or [], null)
    suffix = ".npy" if config.style == "raw" else ".png"
    file = single_file(config.out, images or [], suffix, config.overwrite)
    dry = call.dry_run or file is not None  # of one file there is no folder
    folder = RunFolder(config.out or default_out("attention-map", dry), dry)
    call.own(folder)
    if not config.resume and file is None:
        folder.check_free(config.overwrite, resumable=config.sheet is None)
    extractors = make_extractors(config, [spec, *config.compare], compute)
    record = {
        "command": "attention-map",
        "config": config.model_dump(mode="json"),
        "models": {e.name: e.describe() for e in extractors},
        "options": {e.name: e.options for e in extractors},
        **environment(compute.precision),
    }
    if config.resume:
        check_resumable(folder, record)
    folder.write_json("run.json", record)
    if call.dry_run:
        named = islice(named, config.batch_size)
    out = None if dry else folder.path
    kept = None if call.dry_run else file
    files = MapFiles(out, config.style, config.colormap, config.clip, kept)
    sheet = None
    if config.sheet is not None and not call.dry_run:
        check_writable(config.sheet, "sheet")
        sheet = MapSheet(config.sheet, extractors, files, config.sheet_rows)

    def maps(stop: Stop) -> Iterator[AttentionMapFile | Failure]:
        size, workers = config.batch_size, config.workers
        for result in export_maps(extractors, named, compute, files, size, workers, stop, journal):
            if isinstance(result, Failure):
                yield result
            else:
                if sheet is not None:
                    sheet.add(result)
                yield from result.lines

    opened: ResultJournal[Any] = ResultJournal(out, config.resume)
    with opened as journal, ExitStack() as at_the_end:
        if sheet is not None:
            at_the_end.callback(sheet.save)  # also if the stream breaks off
        return follow(maps, lines(call.json, _text), call.json).status


def _check(config: AttentionMapConfig, images: list[str] | None) -> None:
    """Report wrong options before anything is loaded."""
    if config.model is None and images:
        raise UsageError(
            "name a pre-trained ViT (vit_small_patch16_224.dino, a run folder, ARCH@FILE)",
            option="model",
        )
    if config.resume and config.out is None:
        raise UsageError("name the folder of the interrupted run as `out`", option="resume")
    if config.resume and config.sheet is not None:
        raise UsageError("not with `sheet`, which is drawn from all maps", option="resume")
    if config.sheet is not None and os.path.isdir(config.sheet):
        raise UsageError(f"{config.sheet} is a folder", option="sheet")
    find_kind(config.kind)


def _inputs(model: str | None, images: list[str], null: bool) -> tuple[str, Iterator[InputImage]]:
    """Return the first model's spec and the images; without a model those of the demo."""
    if model is None:
        from gtacli.demo.defaults import demo_images, demo_spec

        spec = demo_spec()
        log.warning("no images and no `model`: the built-in demo's images, model %s", spec)
        return spec, demo_images()
    from gtacli.data.inputs import iter_images

    return model, iter_images(images, sys.stdin.buffer, null)


def _text(line: AttentionMapFile) -> str:
    heads = "" if line["heads"] is None else str(line["heads"])
    words = (line["image"], line["output"] or "", f"layer {line['layer']}", heads)
    return "\t".join(words).rstrip()
