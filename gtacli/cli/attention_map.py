"""`gta attention-map`, also `gta attn-maps`: what a model looks at, a picture and a line a map."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from itertools import islice
from typing import Any

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, Images, NullSeparated, config_command
from gtacli.config.attention_map import AttentionMapConfig
from gtacli.errors import UsageError

log = logging.getLogger(__name__)
app = new_app()


@config_command(app, AttentionMapConfig, "attention-map")
def attention_map(
    config: AttentionMapConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Draw what a ViT looks at in images: a picture (or an array) and a line a map.

    Files are called STEM.layerL.HEADS.png, in the folders that the images lie in below what was
    given. Images that cannot be read are named, the rest is done, and the exit status is 1.
    Without images and --model: the built-in demo's, seen by the newest run on it.
    """
    if config.model is None and images:
        raise UsageError(
            "--model: name a pre-trained ViT (vit_small_patch16_224.dino, a run folder, ARCH@FILE)"
        )
    if config.sheet is not None and config.sheet.is_dir():
        raise UsageError(f"--sheet: {config.sheet} is a folder")
    if config.kind not in ("cls", "rollout"):
        from gtacli.registry import DISCOVERY

        DISCOVERY.origin(config.kind)  # a wrong name is said before anything is loaded
    from gtacli.data.inputs import iter_images
    from gtacli.inference.attention_maps.files import MapFiles
    from gtacli.inference.attention_maps.make import make_lookers
    from gtacli.inference.attention_maps.sheet import Sheet
    from gtacli.inference.attention_maps.stream import look
    from gtacli.runtime.devices import choose_compute
    from gtacli.runtime.run_folder import RunFolder, default_out, environment

    compute = choose_compute(config.device, config.precision)
    if config.model is None:
        from gtacli.demo.defaults import demo_images, demo_spec

        spec = demo_spec()
        log.warning("no images and no --model: the built-in demo's images, seen by %s", spec)
        paths = demo_images()
    else:
        spec = config.model
        paths = iter_images(images or [], sys.stdin.buffer, null)
    folder = RunFolder(config.out or default_out("attention-map"), call.dry_run)
    folder.check_free(config.overwrite, resumable=False)
    lookers = make_lookers(config, [spec, *config.compare], compute)
    record = {"command": "attention-map", "config": config.model_dump(mode="json"), **environment()}
    folder.write_json("run.json", record)
    if call.dry_run:
        paths = islice(paths, config.batch_size)
    files = MapFiles(
        None if call.dry_run else folder.path, config.style, config.colormap, config.clip
    )
    failed = False
    with ExitStack() as at_the_end:
        sheet = None
        if config.sheet is not None and not call.dry_run:
            sheet = Sheet(config.sheet, lookers, files, config.sheet_rows)
            # What has been seen is drawn even if the stream breaks off.
            at_the_end.callback(sheet.save)
        for looked in look(lookers, paths, compute, files, config.batch_size, config.workers):
            if sheet is not None:
                sheet.add(looked)
            for result in looked.results:
                if "error" in result:
                    failed = True
                    log.warning("%s", result["error"])
                _show(result, call.json)
    return 1 if failed else 0


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.emit(result)
    elif "error" not in result:
        what = (result["image"], result["output"] or "", f"layer {result['layer']}")
        heads = result["heads"]
        console.say("\t".join((*what, "" if heads is None else str(heads))).rstrip())
