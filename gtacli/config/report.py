"""The config of `gta report`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from gtacli.config.common import DeviceConfig, FilePath


class ReportConfig(DeviceConfig):
    """Options of a report."""

    out: FilePath = Field(
        default=Path("report.html"),
        description="the page to write; an existing file is replaced",
        json_schema_extra={"metavar": "FILE.html"},
    )
    title: str | None = Field(
        default=None,
        description="title of the page",
        json_schema_extra={"default": "the dataset's name"},
    )
    images: list[str] = Field(
        default_factory=list,
        description="images to show with attention maps: files, folders, patterns, - [default: "
        "test images, one per class]",
        json_schema_extra={"metavar": "IMAGE...", "multiple": True, "variadic": True},
    )
    max_images: int = Field(
        default=24, ge=1, description="maximum number of test images if `images` is not given"
    )
    mistakes: int = Field(
        default=12, ge=0, description="number of most confidently misclassified test images to show"
    )
    no_images: bool = Field(
        default=False,
        description="show only tables, curves and settings; no model is loaded",
        json_schema_extra={"switch": True},
    )
    max_mb: float = Field(
        default=12.0,
        gt=0,
        description="maximum size of the page in MB; maps of many images and runs are thinned out",
    )
