"""Export of a trained model, with a comparison of the file with the model before it appears."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from gtacli.config.export import ExportConfig, Output
from gtacli.errors import GtaError, RunError, UsageError
from gtacli.inference.calibrated import read_calibration
from gtacli.inference.predict import class_names, has_classifier
from gtacli.models.exporters.base import Export, Exporter
from gtacli.models.exporters.card import ExportCard
from gtacli.models.exporters.graph import ExportGraph, trace
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.register_search import with_registers
from gtacli.models.registers import registers_of
from gtacli.models.tap import has_cls
from gtacli.registry import EXPORTERS
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.drafts import draft_name
from gtacli.trained.check_images import CheckImages, check_images
from gtacli.trained.facts import read_facts
from gtacli.trained.results import ExportSummary

log = logging.getLogger(__name__)
LARGEST_DIFFERENCE = 1e-4
"""Of probabilities and attention, from those of PyTorch."""
STRICT = ("probabilities", "attention")


class _Written(NamedTuple):
    """A file that was written and compared.

    Attributes:
        export: what it has.
        differences: largest difference of each output.
        preprocessing: largest difference of the probabilities, or of the first output, from those
            with gta's own preprocessing; None without preprocessing in the graph.
    """

    export: Export
    differences: dict[str, float]
    preprocessing: float | None


def export(config: ExportConfig, spec: str, out: Path) -> ExportSummary:
    """Export a model.

    Args:
        spec: of the model: a run folder, or any other.
        out: the file, or the folder.

    Raises UsageError for a model or outputs that the format cannot hold; RunError, and leaves no
    file, if probabilities or attention of the file differ by more than `LARGEST_DIFFERENCE`.
    """
    assert config.format is not None
    exporter = EXPORTERS.load(config.format)()
    images = check_images(spec, config.check)
    # A graph that prepares its images runs the network at one size.
    any_size = exporter.has_graph and not config.with_preprocessing
    written = None
    if any_size:
        try:
            written = _write(config, spec, exporter, images, out, any_size=True)
        except _FixedSize as reason:
            log.info("the graph takes images of one size: %s", reason.message)
    if written is None:
        written = _write(config, spec, exporter, images, out, any_size=False)
    card = written.export.card
    return {
        "command": "export",
        "model": spec,
        "file": str(out),
        "format": config.format,
        "bytes": _size(out),
        "outputs": [*card.outputs],
        "classes": len(card.classes),
        "image_size": [*card.image_size],
        "any_size": card.any_size or card.pixels,
        "preprocessing": card.pixels,
        "temperature": card.temperature,
        "registers": card.registers,
        "checked_on": images.source,
        "n_checked": len(images.images),
        "differences": written.differences,
        "preprocessing_difference": written.preprocessing,
    }


class _FixedSize(GtaError):
    """The graph of an architecture does not hold for images of another size."""


def _write(
    config: ExportConfig,
    spec: str,
    exporter: Exporter,
    images: CheckImages,
    out: Path,
    any_size: bool,
) -> _Written:
    """Write a model to `out` and compare it with the model. Raises _FixedSize, else as `export`."""
    model = load_model(spec, image_size=config.image_size, any_size=any_size)
    if exporter.has_graph or config.registers != "none":
        model = with_registers(model, config.registers, torch.device("cpu"))
    exporter.check(model)
    card = _card(config, model, exporter, any_size)
    graph = ExportGraph(model, card)
    made = Export(model, card)
    if not exporter.has_graph:
        made = replace(made, facts=read_facts(spec, model, images.images, config.license or ""))
    batches = [*_batches(model, card, images.images)]
    if exporter.has_graph:
        made = replace(made, program=_trace(graph, _example(model, card), any_size))
        if any_size:
            _require_other_sizes(made, graph, batches)
    written = []

    def fill(path: Path) -> None:
        exporter.write(made, path)
        found = _compare(exporter, path, graph, batches)
        _require_equal(config, found, any_size)
        own = _compare_views(exporter, path, graph, model, images.images) if card.pixels else None
        written.append(_Written(made, found, own))

    if exporter.suffix:
        write_atomic(out, fill)
    else:
        _write_folder(out, fill)
    return written[0]


def _card(
    config: ExportConfig, model: LoadedModel, exporter: Exporter, any_size: bool
) -> ExportCard:
    # Weights have no place for a temperature.
    calibration = read_calibration(model.spec) if exporter.has_graph else None
    labels = None if calibration is None else calibration.labels
    names = class_names(model)
    classes = int(cast(Any, model.model).num_classes) if has_classifier(model) else 0
    registers = registers_of(model.model)
    return ExportCard(
        outputs=_outputs(config, model, exporter),
        pixels=config.with_preprocessing,
        image_size=model.image_size,
        any_size=any_size,
        mean=cast("tuple[float, float, float]", model.mean),
        std=cast("tuple[float, float, float]", model.std),
        interpolation=cast(Any, model.interpolation),
        crop_pct=model.crop_pct,
        classes=tuple(names(index) for index in range(classes)),
        multi_label=model.multi_label,
        temperature=1.0 if calibration is None else calibration.temperature,
        threshold=None if calibration is None else calibration.threshold,
        label_threshold=None if labels is None else labels.value,
        heads=config.heads,
        features="cls" if has_cls(model.model) else "mean",
        registers=0 if registers is None else registers.tokens,
        architecture=model.architecture,
        spec=model.spec,
        gta=version("gtacli"),
    )


def _outputs(config: ExportConfig, model: LoadedModel, exporter: Exporter) -> tuple[Output, ...]:
    """Return the outputs of the graph. Raises UsageError for those that the model has not."""
    if not exporter.has_graph:
        for key in ("outputs", "with_preprocessing"):
            if getattr(config, key):
                text = f"{config.format} holds weights, no graph; use onnx or pt2"
                raise UsageError(text, option=key)
        return ("probabilities",) if has_classifier(model) else ("embedding",)
    classifies, attends = has_classifier(model), has_cls(model.model)
    if config.outputs is None:
        first: Output = "probabilities" if classifies else "embedding"
        return (first, "attention") if attends else (first,)
    if "probabilities" in config.outputs and not classifies:
        text = f"{model.spec} has no classifier, so no probabilities; use embedding"
        raise UsageError(text, option="outputs")
    asked = [name for name in ("attention", "box") if name in config.outputs]
    if asked and not attends:
        text = f"{model.spec} has no CLS token, whose attention {asked[0]} shows; leave it out"
        raise UsageError(text, option="outputs")
    return config.outputs


def _example(model: LoadedModel, card: ExportCard) -> Tensor:
    """Return the input that a graph is traced with, see `trace`."""
    height, width = card.image_size
    if card.pixels:
        return torch.randint(256, (2, 3, height + 37, width + 61), dtype=torch.uint8)
    patch = cast(Any, model.model).patch_embed.patch_size
    return torch.randn(2, 3, height, width + (2 * patch[1] if card.any_size else 0))


def _trace(graph: ExportGraph, example: Tensor, any_size: bool) -> ExportedProgram:
    try:
        return trace(graph, example)
    except UsageError as error:
        if any_size:
            raise _FixedSize("torch.export fixes that of its example") from error
        raise


def _batches(
    model: LoadedModel, card: ExportCard, images: Sequence[Image.Image]
) -> Iterator[Tensor]:
    """Yield inputs of a graph: all together, one alone, and others of another size."""
    if card.pixels:
        for image in images:
            yield pil_to_tensor(image)[None]
        first = pil_to_tensor(images[0])
        yield torch.stack([first, first.flip(-1)])
        return
    inputs = torch.stack([model.preprocess(image) for image in images])
    yield inputs
    yield inputs[:1]
    if card.any_size:
        patch = cast(Any, model.model).patch_embed.patch_size
        (height, width), (ph, pw) = card.image_size, patch
        for size in ((height + 2 * ph, width + pw), (height, width + 3 * pw)):
            yield F.interpolate(inputs, size, mode="bilinear")


def _require_other_sizes(made: Export, graph: ExportGraph, batches: Sequence[Tensor]) -> None:
    """Raise _FixedSize unless a traced graph is the network at every size."""
    module = made.graph.module()
    try:
        with torch.no_grad():
            found = [_largest(graph.card.outputs, module(b), graph(b)) for b in batches]
    except Exception as error:  # a guard of torch.export, or a size of its own in an operator
        raise _FixedSize("torch.export fixes that of its example") from error
    if max(each[name] for each in found for name in STRICT if name in each) > LARGEST_DIFFERENCE:
        raise _FixedSize("at another one it differs from the network")


def _compare(
    exporter: Exporter, path: Path, graph: ExportGraph, batches: Sequence[Tensor]
) -> dict[str, float]:
    """Return the largest difference of each output of a file from the network's."""
    worst: dict[str, float] = {}
    for batch in batches:
        with torch.no_grad():
            found = _largest(graph.card.outputs, exporter.run(path, batch), graph(batch))
        worst = {name: max(value, worst.get(name, 0.0)) for name, value in found.items()}
    return worst


def _largest(
    names: Sequence[str], ours: Sequence[Tensor], theirs: Sequence[Tensor]
) -> dict[str, float]:
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return dict.fromkeys(names, math.inf)
    pairs = zip(names, ours, theirs, strict=True)
    largest = {name: (a.float() - b.float()).abs().max().item() for name, a, b in pairs}
    return {name: math.inf if math.isnan(value) else value for name, value in largest.items()}


def _require_equal(config: ExportConfig, found: dict[str, float], any_size: bool) -> None:
    """Raise RunError for a file whose probabilities or attention are others than the model's."""
    for name in STRICT:
        if found.get(name, 0.0) > LARGEST_DIFFERENCE:
            text = f"{name} of the {config.format} file differ by {found[name]:.2g} from PyTorch's"
            if any_size:
                raise _FixedSize(text)
            raise RunError(f"{text}, more than {LARGEST_DIFFERENCE:g}; no file was written")


def _compare_views(
    exporter: Exporter,
    path: Path,
    graph: ExportGraph,
    model: LoadedModel,
    images: Sequence[Image.Image],
) -> float:
    """Return the largest difference of the first output from that with gta's preprocessing."""
    plain = ExportGraph(model, graph.card.model_copy(update={"pixels": False}))
    worst = 0.0
    for image in images:
        (ours, *_), inputs = exporter.run(path, pil_to_tensor(image)[None]), model.preprocess(image)
        with torch.no_grad():
            (theirs, *_) = plain(inputs[None])
        worst = max(worst, (ours - theirs).abs().max().item())
    return worst


def _write_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a folder, whose files then go to `out`. Raises RunError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _draft_folder(out) as draft:
            fill(draft)
            for file in sorted(draft.iterdir()):
                os.replace(file, out / file.name)
    except OSError as error:
        raise RunError(f"cannot write {out} ({error.strerror or error})", option="out") from error


@contextmanager
def _draft_folder(out: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=draft_name(), dir=out) as folder:
        yield Path(folder)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    return sum(file.stat().st_size for file in files)
