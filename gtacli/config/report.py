"""The config of `gta report`."""

from __future__ import annotations

from pathlib import Path

from gtacli.config.common import DeviceConfig, FilePath, RecordConfig
from gtacli.config.option import option


class ReportConfig(RecordConfig, DeviceConfig):
    """Options of a report."""

    out: FilePath = option(
        Path("report.html"), "the page to write; an existing file is replaced", metavar="FILE.html"
    )
    title: str | None = option(None, "title of the page", shown="the dataset's name")
    images: list[str] = option(
        list,
        "images to show with attention maps: files, folders, patterns, - [default: test "
        "images, one per class]",
        metavar="IMAGE...",
        multiple=True,
        variadic=True,
    )
    max_images: int = option(24, "maximum number of test images if `images` is not given", ge=1)
    mistakes: int = option(12, "number of most confidently misclassified test images to show", ge=0)
    no_images: bool = option(
        False, "show only tables, curves and settings; no model is loaded", switch=True
    )
    confusion: FilePath | None = option(
        None,
        "folder for the confusion matrix of each run as PNG and CSV, with its most confused pairs "
        "and a table of the classes",
        metavar="DIR",
    )
    max_mb: float = option(
        12.0, "maximum size of the page in MB; maps of many images and runs are thinned out", gt=0
    )
