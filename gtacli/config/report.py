"""The config of `gta report`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from gtacli.config.common import DeviceConfig, FilePath


class ReportConfig(DeviceConfig):
    """What a report of several runs shows."""

    out: FilePath = Field(
        default=Path("report.html"),
        description="the page to write; an earlier one is replaced",
        json_schema_extra={"metavar": "FILE.html"},
    )
    title: str | None = Field(
        default=None,
        description="of the page",
        json_schema_extra={"default": "the data set's name"},
    )
    images: list[str] = Field(
        default_factory=list,
        description="images to look at: files, folders, patterns, - [default: the test images, "
        "one of each class]",
        json_schema_extra={"metavar": "IMAGE...", "multiple": True, "variadic": True},
    )
    max_images: int = Field(
        default=24, ge=1, description="test images to look at, where none are named"
    )
    mistakes: int = Field(
        default=12, ge=0, description="test images to show of those that are mistaken worst"
    )
    no_images: bool = Field(
        default=False,
        description="table, curves and settings alone, at once: no model is loaded",
        json_schema_extra={"switch": True},
    )
    max_mb: float = Field(
        default=12.0, gt=0, description="size of the page; of many images and runs less is kept"
    )
