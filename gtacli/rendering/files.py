"""Pictures as files, in the formats that papers and pages take."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from gtacli.errors import UsageError
from gtacli.runtime.atomic import write_atomic

SUFFIXES = (".png", ".jpg", ".jpeg", ".svg", ".pdf")
_PILLOW = {".jpg": "JPEG", ".jpeg": "JPEG", ".pdf": "PDF"}


def check_picture_suffix(path: Path, option: str) -> None:
    """Raise UsageError unless a path ends in the suffix of a format that can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"must end in {', '.join(SUFFIXES)}, got '{path}'", option=option)


def write_picture(picture: Image.Image, path: Path, option: str = "out") -> str:
    """Write a picture in the format of its suffix; SVG and PDF hold its pixels.

    Equal pictures give equal files. Returns the path as text. Raises RunError about `option` if it
    cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".svg":
        text = _svg(picture)
        return write_atomic(path, lambda draft: draft.write_text(text, encoding="utf-8"), option)
    # Else a PDF tells its date, and has its draft's name as title.
    plain = dict.fromkeys(("creationDate", "modDate", "title")) if suffix == ".pdf" else {}
    kind = _PILLOW.get(suffix, "PNG")
    return write_atomic(path, lambda draft: picture.save(draft, format=kind, **plain), option)


def _svg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    pixels = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = picture.size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">\n'
        f'<image width="{width}" height="{height}" href="data:image/png;base64,{pixels}"/>\n'
        "</svg>\n"
    )
