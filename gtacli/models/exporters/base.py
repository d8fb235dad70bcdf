"""The interface of an exporter: it writes a trained model in the format of another program.

A plug-in subclasses `Exporter` and registers itself in the entry-point group `gta.exporters`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from gtacli.models.exporters.card import ExportCard
from gtacli.models.loading import LoadedModel

if TYPE_CHECKING:
    from torch.export import ExportedProgram


Metric = tuple[str, float, tuple[float, float] | None]
"""A name, a fraction, and its 95 % interval where there is one."""


@dataclass(frozen=True)
class Facts:
    """The facts about a trained model that readers want to know, beside its weights.

    Attributes:
        data: the dataset that it was trained on; "" if that is not known.
        start: the model that it was trained from; "" if that is not known.
        command: that trained it; "" if that is not known.
        images: number of training images; None if that is not known.
        metrics: on test images.
        license: of the weights; "" if that is not known.
        picture: a PNG of attention maps.
    """

    data: str = ""
    start: str = ""
    command: str = ""
    images: int | None = None
    metrics: tuple[Metric, ...] = ()
    license: str = ""
    picture: bytes | None = None


@dataclass(frozen=True)
class Export:
    """A model to be exported.

    Attributes:
        model: with a classifier or without, in eval mode, on the CPU.
        card: its description, which belongs into the file.
        program: the traced graph; None for an exporter of weights alone.
        facts: for a description that people read.
    """

    model: LoadedModel
    card: ExportCard
    program: ExportedProgram | None = None
    facts: Facts = field(default_factory=Facts)

    @property
    def graph(self) -> ExportedProgram:
        """The traced graph, of an exporter that writes one."""
        assert self.program is not None
        return self.program


class Exporter(ABC):
    """A format that trained models are exported to.

    Attributes:
        help: one line for the list of formats.
        suffix: of the file, with its dot; "": the format is a folder.
        has_graph: whether it writes the graph with its outputs; else the weights alone, from which
            another program builds the network, whose only output is `probabilities`.
    """

    help: ClassVar[str]
    suffix: ClassVar[str]
    has_graph: ClassVar[bool] = True

    def check(self, model: LoadedModel) -> None:  # noqa: B027
        """Raise UsageError if the format cannot hold a model, or a package is missing."""

    @abstractmethod
    def write(self, export: Export, path: Path) -> None:
        """Write the file, or into the existing empty folder. Raises RunError if it cannot."""

    @abstractmethod
    def run(self, path: Path, images: Tensor) -> tuple[Tensor, ...]:
        """Read what `write` has written and return its outputs for images, as its user would."""
