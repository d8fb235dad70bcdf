"""`gta maps`: statistics, verification and pictures of the maps that `gta discover` caches."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.lazy import group
from gtacli.cli.options import Images, Json, NullSeparated, Quiet, Verbose
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.data.inputs import InputImage
    from gtacli.data.streams.stream import ImageStream
    from gtacli.discovery.maps import MapCache
    from gtacli.inference.results import MapDrawing, MapVerification

app = group("maps")
LISTED = 10
"""Names printed per problem."""
_SUFFIX = ".map.png"
Cache = Annotated[Path, typer.Argument(help="folder of gta discover", show_default=False)]


@app.command()
def stats(cache: Cache, json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Print statistics of the maps.

    Their model and options, their number, and the fraction of the images that they mark as object.
    """
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.discovery.maps import MapCache
    from gtacli.discovery.maps.stats import stats as run

    report = run(MapCache(cache, skip_damaged=True))
    if json:
        console.emit(report)
        return
    rows = [(key.replace("_", " "), _cell(key, value)) for key, value in report.items()]
    console.table(("maps", ""), [row for row in rows if row[1] != ""])


@app.command()
def verify(
    cache: Cache,
    images: Images = None,
    null: NullSeparated = False,
    data: Annotated[
        str | None, typer.Option(help="a dataset, or a folder of images", metavar="SPEC")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Check that no file is damaged and that every image has a map.

    Compares every file with its checksum, and lists those of the given images that have no map.
    The exit status is 1 if anything is damaged, unfinished or missing: gta discover repairs it once
    damaged files are removed.
    """
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.data.inputs import iter_paths, list_sources
    from gtacli.data.spec import find_stream
    from gtacli.discovery.maps import MapCache
    from gtacli.discovery.maps.folder import journals
    from gtacli.images.sources import ImageList

    opened = MapCache(cache, skip_damaged=True, check=True)
    stream = None if data is None else find_stream(data)
    sources = ImageList(()) if data is None or stream is not None else list_sources(data)
    if images:
        sources = ImageList([*sources, *iter_paths(images, sys.stdin.buffer, null)])
    with console.progress("images", len(sources), lines=30) as advance:
        found = opened.rows(sources, progress=advance)
    missing = [str(source) for source, row in zip(sources, found, strict=True) if row < 0]
    count = len(sources)
    if stream is not None:
        streamed, without = _check_stream(opened, stream)
        count, missing = count + streamed, missing + without
    report: MapVerification = {
        "cache": str(cache),
        "ok": False,
        "maps": len(opened),
        "images": count,
        "damaged": [str(file) for file in opened.damaged],
        "unfinished": [str(file) for file in journals(cache)],
        "missing": missing,
    }
    problems = {key: report[key] for key in ("damaged", "unfinished", "missing")}
    report["ok"] = not any(problems.values())
    if json:
        console.emit(report)
        return 0 if report["ok"] else 1
    for what, names in problems.items():
        for name in names[:LISTED]:
            console.say(f"{what}: {name}")
        if len(names) > LISTED:
            console.say(f"… and {len(names) - LISTED} more (--json lists all)")
    if report["ok"]:
        of = f" of {count} images, none missing" if count else ""
        console.say(f"{len(opened)} maps{of}; all is well")
    return 0 if report["ok"] else 1


def _check_stream(cache: MapCache, stream: ImageStream) -> tuple[int, list[str]]:
    """Return the number of images of shards, and the names of those without a map."""
    from gtacli.data.streams.samples import ShardEnd, Unreadable

    count, missing = 0, []
    with console.progress("images", None, lines=30) as advance:
        for item in stream.items(labels=False):
            if isinstance(item, ShardEnd):
                continue
            count += 1
            advance(1)
            if isinstance(item, Unreadable):
                missing.append(item.name)
            elif cache.find(item.image.data) is None:
                missing.append(str(item.image))
    return count, missing


@app.command()
def show(
    cache: Cache,
    images: Images = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="folder for STEM.map.png, or one FILE.png", metavar="DIR"),
    ] = None,
    null: NullSeparated = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Draw maps over their images.

    An image without a map is reported, and the others are processed; the exit status is 1.
    """
    console.setup(quiet=quiet, verbose=verbose)
    if out is None:
        raise UsageError("name a folder, or a .png for one image", option="out")
    from gtacli.cli.follow import follow, lines
    from gtacli.data.inputs import iter_images
    from gtacli.discovery.maps import MapCache
    from gtacli.inference.outputs import place_images
    from gtacli.inference.stream import stream

    opened = MapCache(cache)
    named = iter_images(images or [], sys.stdin.buffer, null)
    single = out.suffix.lower() == ".png"
    if single:
        named = iter([_only(list(named))])
    draw = partial(_draw, opened, out, single)
    placed = place_images(named, out, [_SUFFIX])
    ending = follow(
        lambda stop: stream(
            placed, draw, list, 1, threads=0, name=lambda image: image.path, stop=stop
        ),
        lines(json, _text),
        json,
    )
    return ending.status


def _only(named: list[InputImage]) -> InputImage:
    if len(named) != 1:
        raise UsageError(f"{len(named)} images need a folder, not a .png", option="out")
    return named[0]


def _draw(cache: MapCache, out: Path, single: bool, image: InputImage) -> MapDrawing:
    """Draw an image's map. Raises ImageError for an image without one."""
    import numpy as np

    from gtacli.images.decode import EncodedImage, ImageError, decode, read_bytes
    from gtacli.inference.outputs import result_path, write_result
    from gtacli.rendering.heatmap import overlay_map, resize_map

    path = out if single else result_path(out, image.result_stem, _SUFFIX)
    data = read_bytes(image.source)
    found = cache.find(data)
    if found is None:
        raise ImageError(f"no map of {image.path} in {cache.folder}")
    picture = decode(EncodedImage(image.path, data))
    gray = resize_map(found.astype(np.float32), (picture.height, picture.width), (0, 255))
    drawn = overlay_map(picture, gray, "plasma")
    return {
        "image": image.path,
        "output": write_result(path, lambda p: drawn.save(p, format="PNG")),
        "grid": list(cache.grid),
    }


def _text(result: MapDrawing) -> str:
    return f"{result['image']}\t{result['output']}"


def _cell(key: str, value: Any) -> Any:
    if key == "histogram":
        return " ".join(map(str, value))
    if key == "fingerprint":
        return value[:16]
    if key == "foreground" and value is not None:
        return f"{100 * value:.1f} %"
    if isinstance(value, dict):
        return " ".join(f"{k}={v}" for k, v in value.items())
    if key in ("image_size", "grid"):
        return "x".join(map(str, value))
    return " ".join(value) if isinstance(value, list) else value
