"""The ONNX format: a graph that onnxruntime and many other programs run, on any device."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from gtacli.errors import RunError, UsageError, reason_of_library
from gtacli.models.exporters.base import Export, Exporter
from gtacli.models.exporters.card import KEY
from gtacli.models.exporters.graph import INPUT
from gtacli.models.loading import LoadedModel
from gtacli.runtime.repeated import logged_from

LARGEST = 2_000_000_000
"""Bytes of a protobuf message, which an ONNX file is, at most; a little less than 2 GiB."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Onnx(Exporter):
    """An ONNX file with its weights inside."""

    help: ClassVar[str] = "an ONNX file, for onnxruntime and others; gta predict runs it"
    suffix: ClassVar[str] = ".onnx"

    def check(self, model: LoadedModel) -> None:
        missing = [name for name in PACKAGES if find_spec(name) is None]
        if missing:
            text = f"onnx needs {', '.join(missing)}: pip install 'gtacli[onnx]'"
            raise UsageError(text, option="format")
        size = sum(p.numel() * p.element_size() for p in model.model.parameters())
        if size > LARGEST:
            text = f"{model.spec} has {size / 1e9:.1f} GB of weights; an ONNX file holds 2 GB"
            raise UsageError(f"{text}, pt2 holds more", option="format")

    def write(self, export: Export, path: Path) -> None:
        card = export.card
        try:
            with _quiet():
                program = torch.onnx.export(
                    export.graph,
                    input_names=[INPUT],
                    output_names=list(card.outputs),
                    dynamo=True,
                    verbose=False,
                )
                assert program is not None
                program.model.metadata_props[KEY] = card.to_json()
                program.model.doc_string = f"{card.architecture} by gta {card.gta}"
                program.save(path, external_data=False)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # whatever an operator without a translation makes it raise
            text = f"{card.architecture} cannot be written as ONNX: {reason_of_library(error)}"
            raise RunError(text, option="format") from error

    def run(self, path: Path, images: Tensor) -> tuple[Tensor, ...]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path.read_bytes(), options)
        return tuple(map(torch.from_numpy, session.run(None, {INPUT: images.numpy()})))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which writes about each of its steps."""
    loggers = logged_from(logging.ERROR, "onnxscript", "onnx_ir", "torch.onnx")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), loggers:
        warnings.simplefilter("ignore")
        yield
