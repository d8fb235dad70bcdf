"""`gta maps`: what `gta discover` keeps: figures on it, whether it is whole, pictures of it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.lazy import group
from gtacli.cli.options import Images, Json, NullSeparated, Quiet, Verbose
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.data.inputs import InputImage
    from gtacli.discovery.maps import MapCache

log = logging.getLogger(__name__)
app = group("maps")
SHOWN = 10
Cache = Annotated[Path, typer.Argument(help="folder of gta discover", show_default=False)]


@app.command()
def stats(cache: Cache, json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Figures on the maps.

    What they are, how many there are, and how much of the images they call object.
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
        str | None, typer.Option(help="a data set, or a folder of images", metavar="SPEC")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Are all files whole, have all images a map?

    Compares every file with its checksum, and finds images without a map among those that are
    given. Exit status 1 when something is damaged, unfinished or missing: gta discover mends it.
    """
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.data.inputs import iter_images, list_sources
    from gtacli.discovery.maps import MapCache
    from gtacli.discovery.maps.writer import journals

    opened = MapCache(cache, skip_damaged=True)
    sources = [] if data is None else list_sources(data)
    if images:
        sources += [image.source for image in iter_images(images, sys.stdin.buffer, null)]
    with console.progress("looked up", len(sources), lines=30) as advance:
        found = opened.rows(sources, progress=advance)
    lacking = [str(source) for source, row in zip(sources, found, strict=True) if row < 0]
    problems: dict[str, list[str]] = {
        "damaged": [str(file) for file in opened.damaged],
        "unfinished": [str(file) for file in journals(cache)],
        "missing": lacking,
    }
    if json:
        counts = {"maps": len(opened), "images": len(sources)}
        console.emit({"cache": str(cache), "ok": not any(problems.values()), **counts, **problems})
    else:
        for what, names in problems.items():
            for name in names[:SHOWN]:
                console.say(f"{what}: {name}")
            if len(names) > SHOWN:
                console.say(f"… and {len(names) - SHOWN} more (--json lists all)")
        if not any(problems.values()):
            of = f" of {len(sources)} images, none missing" if sources else ""
            console.say(f"{len(opened)} maps{of}; all is well")
    return 1 if any(problems.values()) else 0


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

    An image without a map is named, and the exit status is 1.
    """
    console.setup(quiet=quiet, verbose=verbose)
    if out is None:
        raise UsageError("--out: name a folder, or a .png for one image")
    from gtacli.data.inputs import iter_images
    from gtacli.discovery.maps import MapCache
    from gtacli.images.decode import ImageError

    opened = MapCache(cache)
    named = iter_images(images or [], sys.stdin.buffer, null)
    single = out.suffix.lower() == ".png"
    if single:
        named = iter([_only(list(named))])
    status = 0
    for image in named:
        path = out if single else out / image.below.with_name(f"{image.below.stem}.map.png")
        try:
            result = _draw(opened, image, path)
        except ImageError as error:
            log.warning("%s", error)
            result, status = {"image": image.path, "error": str(error)}, 1
        if json:
            console.emit(result)
        elif "error" not in result:
            console.say(f"{image.path}\t{path}")
    return status


def _only(named: list[InputImage]) -> InputImage:
    if len(named) != 1:
        raise UsageError(f"--out: {len(named)} images need a folder, not a .png")
    return named[0]


def _draw(cache: MapCache, image: InputImage, path: Path) -> dict[str, Any]:
    import numpy as np

    from gtacli.images.decode import Encoded, ImageError, decode, encoded
    from gtacli.rendering.heatmap import overlay_map, resize_map
    from gtacli.runtime.atomic import write_atomic

    data = encoded(image.source)
    found = cache.find(data)
    if found is None:
        raise ImageError(f"no map of {image.path} in {cache.folder}")
    picture = decode(Encoded(image.path, data))
    grey = resize_map(found.astype(np.float32), (picture.height, picture.width), (0, 255))
    drawn = overlay_map(picture, grey, "plasma")
    return {
        "image": image.path,
        "output": write_atomic(path, lambda p: drawn.save(p, format="PNG")),
        "grid": list(cache.grid),
    }


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
