"""The config of `gta probe retrieval`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from gtacli.config.common import FilePath
from gtacli.config.option import option
from gtacli.config.probe.common import Counts, ExtractingProbeConfig


class RetrievalProbeConfig(ExtractingProbeConfig):
    """Options of `gta probe retrieval`."""

    gallery: Literal["test", "train"] = option(
        "test",
        "the split that test images are searched for in: the other test images, or the "
        "training images",
    )
    recall: Counts = option(
        (1, 5, 10),
        "values of k of recall@k: whether one of the k nearest has the query's class",
        metavar="LIST",
        shown="1,5,10",
    )
    ground_truth: FilePath | None = option(
        None,
        "revisited Oxford or Paris: gnd_roxford5k.pkl, or the same as JSON; `data` is then "
        "the folder of the images",
        metavar="FILE",
    )

    @model_validator(mode="after")
    def _check_ground_truth(self) -> RetrievalProbeConfig:
        """Refuse options that the revisited protocol defines itself."""
        if self.ground_truth is not None:
            for key in ("gallery", "recall"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"`{key}` is for classes; `ground_truth` has its own")
        return self
