"""The config of `gta probe retrieval`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from gtacli.config.common import FilePath, read_numbers
from gtacli.config.probe import FeatureProbeConfig


class RetrievalProbeConfig(FeatureProbeConfig):
    """`gta probe retrieval`."""

    gallery: Literal["test", "train"] = Field(
        default="test",
        description="where test images look for others of their class: among each other, or in the "
        "training part",
    )
    recall: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(read_numbers), Field(min_length=1)
    ] = Field(
        default=(1, 5, 10),
        description="recall@k: whether one of the k nearest is of the class",
        json_schema_extra={"metavar": "LIST", "default": "1,5,10"},
    )
    ground_truth: FilePath | None = Field(
        default=None,
        description="revisited Oxford or Paris: gnd_roxford5k.pkl, or the same as JSON; --data is "
        "then the folder of the images",
        json_schema_extra={"metavar": "FILE"},
    )

    @model_validator(mode="after")
    def _fitting(self) -> RetrievalProbeConfig:
        """The revisited protocol has a gallery and figures of its own."""
        if self.ground_truth is not None:
            for key in ("gallery", "recall"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"--{key} is for classes; --ground-truth has its own")
        return self
