"""Promises of an exporter, checked with a tiny network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtacli.config.export import OUTPUTS
from gtacli.errors import GtaError
from gtacli.models.exporters.base import Export, Exporter
from gtacli.models.exporters.card import ExportCard
from gtacli.models.exporters.graph import ExportGraph, trace
from gtacli.models.loading import LoadedModel
from gtacli.testing.inputs import CLASSES, TINY, drawn_images, loaded, tiny_vit
from gtacli.testing.options import Promises
from gtacli.testing.promises import BrokenPromise, NotApplicable, require
from gtacli.testing.state import network_state, unchanged_process

CLOSE = 1e-4


def exporter_promises(part: Any) -> Promises:
    """Return the promises of an exporter's class."""

    def on(promise: Callable[[Any], None]) -> Callable[[], None]:
        return partial(promise, part)

    return {
        "it describes itself in a line": on(_described),
        "it names the suffix of its file, or none for a folder": on(_suffix),
        "it writes its file and nothing beside it": on(_writes),
        "its file gives the model's outputs, in order": on(_outputs),
        "its file takes batches of any size": on(_batches),
        "it leaves the network as it is": on(_network_alone),
        "it leaves the state of the process as it is": on(_process_alone),
    }


def tiny_model() -> LoadedModel:
    """Return the model that is exported: a tiny ViT with four classes."""
    return replace(loaded(tiny_vit()), kwargs=TINY)


def tiny_export(part: Any) -> tuple[Export, ExportGraph]:
    """Return a model to be exported, and its network.

    Raises NotApplicable where the exporter cannot work.
    """
    model = tiny_model()
    try:
        part().check(model)
    except GtaError as error:
        raise NotApplicable(f"it does not work here: {error}") from error
    card = ExportCard(
        outputs=OUTPUTS[::-1] if part.has_graph else ("probabilities",),
        image_size=model.image_size,
        mean=model.mean,  # type: ignore[arg-type]
        std=model.std,  # type: ignore[arg-type]
        interpolation="bicubic",
        crop_pct=model.crop_pct,
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        temperature=2.0 if part.has_graph else 1.0,
        architecture=model.architecture,
        spec=model.spec,
    )
    graph = ExportGraph(model, card)
    program = trace(graph, drawn_images(2)) if part.has_graph else None
    return Export(model, card, program), graph


class Written(NamedTuple):
    """A file of an exporter.

    Attributes:
        path: of the file, or of the folder.
        export: its content.
        graph: the network with its outputs.
        folder: where it lies, until the end of the process.
    """

    path: Path
    export: Export
    graph: ExportGraph
    folder: Any


@cache
def written(part: Any) -> Written:
    """Write a tiny model, once for all promises."""
    export, graph = tiny_export(part)
    folder = tempfile.TemporaryDirectory()
    return Written(_write(part, export, Path(folder.name)), export, graph, folder)


def _write(part: Any, export: Export, folder: Path) -> Path:
    path = folder / f"model{part.suffix}"
    if not part.suffix:
        path.mkdir()
    part().write(export, path)
    return path


def _described(part: Any) -> None:
    require(part.help and "\n" not in part.help, "help is no line for the list of formats")
    require(isinstance(part.has_graph, bool), f"has_graph is {part.has_graph!r}")


def _suffix(part: Any) -> None:
    good = isinstance(part.suffix, str) and (not part.suffix or part.suffix[0] == ".")
    require(good, f"suffix is {part.suffix!r}: take a dot and a word, or an empty text")


def _writes(part: Any) -> None:
    path = written(part).path
    beside = sorted(file.name for file in path.parent.iterdir() if file != path)
    require(not beside, f"it writes beside its file: {', '.join(beside)}")
    require(path.exists(), "it writes nothing")
    empty = not any(path.iterdir()) if path.is_dir() else not path.stat().st_size
    require(not empty, "it writes nothing")


def _outputs(part: Any) -> None:
    _require_close(part, written(part), drawn_images(2))


def _batches(part: Any) -> None:
    for count in (1, 3):
        _require_close(part, written(part), drawn_images(count))


def _require_close(part: Any, file: Written, images: Tensor) -> None:
    exporter: Exporter = part()
    found = exporter.run(file.path, images)
    with torch.no_grad():
        wanted = file.graph(images)
    names = file.graph.card.outputs
    require(len(found) == len(names), f"run() returns {len(found)} outputs, not {len(names)}")
    for name, ours, theirs in zip(names, found, wanted, strict=True):
        if ours.shape != theirs.shape:
            raise BrokenPromise(f"{name} is {tuple(ours.shape)}, not {tuple(theirs.shape)}")
        worst = (ours.float() - theirs).abs().max().item()
        require(worst <= CLOSE, f"{name} of {len(images)} images differ by {worst:.2g}")


def _network_alone(part: Any) -> None:
    after = network_state(written(part).export.model.model)
    changed = [name for name, value in network_state(tiny_model().model).items()
               if after.get(name) != value]  # fmt: skip
    require(not changed, f"write() changes the model: {', '.join(changed)}")


def _process_alone(part: Any) -> None:
    export = written(part).export  # the first time a library may set itself up
    with tempfile.TemporaryDirectory() as folder:
        with unchanged_process("write()"):
            path = _write(part, export, Path(folder))
        with unchanged_process("run()"), torch.random.fork_rng(devices=[]):  # a network is created
            part().run(path, drawn_images(2))
