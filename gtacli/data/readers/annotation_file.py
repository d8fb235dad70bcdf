"""One JSON file with the annotations of many images: COCO's format, or Label Studio's tasks."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from pathlib import Path

from gtacli.data.readers.coco_file import CocoFile, parse_coco
from gtacli.data.readers.label_studio import LabelStudioFile, parse_tasks
from gtacli.images.decode import ImageError
from gtacli.runtime.strict_json import read_json, reason_of

_reading = threading.Lock()  # several threads ask for the first image at once


def read_annotation_file(path: Path) -> CocoFile | LabelStudioFile:
    """Read a file; the last one is kept until it changes. Raises ImageError."""
    try:
        found = os.stat(path)
        with _reading:
            return _kept(path, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read annotations {path}: {reason_of(error)}") from error
    except (KeyError, TypeError, AttributeError) as error:
        reason = "it is no file of COCO's format"
        raise ImageError(f"cannot read annotations {path}: {reason}") from error


@lru_cache(maxsize=1)
def _kept(path: Path, changed: int, size: int) -> CocoFile | LabelStudioFile:
    content = read_json(path)
    return parse_tasks(path, content) if isinstance(content, list) else parse_coco(path, content)
