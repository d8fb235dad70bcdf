"""The start of a study: its folder, the fingerprints of its datasets, its executor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gtacli.config.base import build
from gtacli.config.commands import WITHOUT_LABELS, config_of
from gtacli.config.training import TrainingConfig
from gtacli.data.base import ImageDataset
from gtacli.data.learnable import without_unseen
from gtacli.data.spec import find_stream, load_dataset
from gtacli.data.unlabeled import load_images
from gtacli.errors import UsageError, errors_about
from gtacli.executors.base import Executor, ExecutorOptions
from gtacli.registry import EXECUTORS
from gtacli.runtime.drafts import content
from gtacli.study.folder import StudyFolder
from gtacli.study.plan import Cell, StudyPlan
from gtacli.study.work import data_specs

if TYPE_CHECKING:
    from gtacli.data.streams.stream import ImageStream


def begin(path: Path, text: str, plan: StudyPlan) -> StudyFolder:
    """Return the folder of a study, which begins in it or goes on.

    Raises UsageError for a folder with anything else, for another study whose cells are at work in
    it, and GtaError for a dataset that cannot be read.
    """
    folder = StudyFolder(path)
    if folder.file.is_file():
        _check_unused(folder, text)
    elif path.is_dir() and content(p.name for p in path.iterdir()):
        raise UsageError(f"{path} is not empty, and no study's folder", option="out")
    cells = plan.cells.values()
    specs = dict.fromkeys(spec for cell in cells for spec in data_specs(cell.settings))
    data = {}
    for spec in specs:
        with errors_about("data"):
            data[spec] = _fingerprint(spec, [c for c in cells if spec in data_specs(c.settings)])
    if folder.file.is_file():
        _check_unused(folder, text)  # reading the data may have taken long
    folder.begin(text, plan, data)
    return folder


def _check_unused(folder: StudyFolder, text: str) -> None:
    """Raise UsageError where commands or cells of another study are at work."""
    driven = folder.is_driven()  # removes what killed commands have left
    if folder.text == text:
        return
    running = [name for name in folder.plan.cells if folder.is_running(name)]
    if driven or running:
        which = f" ({running[0]})" if running else ""
        text = f"another study is at work in {folder.path}{which}; wait until it ends, or stop it"
        raise UsageError(text, option="out")


def _fingerprint(spec: str, cells: Sequence[Cell]) -> str:
    """Return the fingerprint of a dataset, as the cells that train on it record it.

    Raises GtaError if it cannot be read as one of the cells reads it.
    """
    ways = dict.fromkeys(map(_Reading.of, cells))
    trained = [way for way in ways if way.trains]
    found = {way: way.read(spec) for way in (*trained, *ways)}
    return next(iter(found.values())).fingerprint()


class _Reading(NamedTuple):
    """The way in which a cell reads its dataset.

    Attributes:
        trains: it learns from it, and records the fingerprint of what it learns from.
        labels: it needs labels.
        several: of each image any number of them.
        streamed: it reads shards one after the other, where the dataset has some.
    """

    trains: bool
    labels: bool
    several: bool
    streamed: bool

    @classmethod
    def of(cls, cell: Cell) -> _Reading:
        return cls(
            trains=issubclass(config_of(cell.command), TrainingConfig),
            labels=cell.command not in WITHOUT_LABELS and "ground_truth" not in cell.settings,
            several=bool(cell.settings.get("multi_label")),
            streamed=cell.command == "discover" or "epoch_images" in cell.settings,
        )

    def read(self, spec: str) -> ImageDataset | ImageStream:
        if self.streamed and (stream := find_stream(spec)) is not None:
            return stream
        dataset = load_dataset(spec, self.several) if self.labels else load_images(spec)
        return without_unseen(dataset, quiet=True) if self.trains else dataset


def executor_options(plan: StudyPlan, name: str) -> ExecutorOptions:
    """Return the options that a study has for an executor. Raises GtaError."""
    kind = EXECUTORS.load(name)
    return build(kind.Options, plan.file.executor.get(name, {}), f"executor.{name}")


def open_executor(folder: StudyFolder, name: str, jobs: int | None) -> Executor[Any]:
    """Return an executor with the options that the study has for it. Raises GtaError."""
    options = executor_options(folder.plan, name)
    return EXECUTORS.load(name)(options, jobs, folder.path / "executor")
