"""A model in an ONNX file of `gta export`, run by onnxruntime; nothing here imports torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.errors import GtaError, RunError, UsageError, reason_of_library
from gtacli.images.decode import load
from gtacli.images.sizes import resize_target
from gtacli.images.view import center_crop, corners, load_whole
from gtacli.inference.onnx_check import read_metadata
from gtacli.inference.predictions import THRESHOLD, Tta, predictions
from gtacli.inference.results import Prediction
from gtacli.inference.stream import Failure, Stop, never, stream
from gtacli.models.exporters.card import KEY, LARGEST, read_export_card
from gtacli.runtime.machine import available_memory, usable_cores
from gtacli.runtime.regular import read_regular
from gtacli.runtime.strict_json import reason_of

log = logging.getLogger(__name__)
INPUT = "images"


class OnnxModel:
    """A classifier in an ONNX file, on the CPU.

    Attributes:
        card: see `ExportCard`.

    Raises GtaError with one line for another file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = read_regular(path)
            text = read_metadata(data).get(KEY, "")
        except (OSError, ValueError) as error:
            raise GtaError(f"{path} cannot be run: {reason_of(error)}", option="model") from None
        if not text or len(text) > LARGEST:
            text = f"{path} has no card of gta export, which says how to prepare its images"
            raise GtaError(text, option="model")
        self.card = read_export_card(text, str(path))
        if "probabilities" not in self.card.outputs or not self.card.classes:
            outputs = ", ".join(self.card.outputs)
            raise GtaError(f"{path} has no probabilities, only {outputs}", option="model")
        self._session = _open(path, data)
        self._mean, self._std = (
            np.array(values, np.float32)[:, None, None] * np.float32(255)
            for values in (self.card.mean, self.card.std)
        )

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities (B, K) of images, uint8 (B, h, w, 3).

        They have the network's size, or any size if the graph takes pixels.

        Raises RunError if the graph cannot run, or returns something else.
        """
        inputs: Any = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        if not self.card.pixels:
            inputs = (inputs.astype(np.float32) - self._mean) / self._std
        try:
            (found,) = self._session.run(["probabilities"], {INPUT: inputs})
        except Exception as error:  # of the library's own, and of memory
            raise RunError(f"{self.path} cannot be run: {_reason(error)}") from None
        wanted = (len(pixels), len(self.card.classes))
        if not isinstance(found, np.ndarray) or found.shape != wanted:
            raise RunError(f"{self.path} returns no probabilities of {wanted[1]} classes")
        if not np.isfinite(found).all():
            raise RunError(f"{self.path} returns probabilities that are no numbers")
        return found.astype(np.float32)

    def read(self, path: Path, tta: Tta) -> NDArray[np.uint8]:
        """Return the views of an image, uint8 (V, h, w, 3); the first is the evaluation view.

        A graph that takes pixels resizes and crops them itself: its views have the image's own
        aspect ratio. Raises ImageError.
        """
        card = self.card
        if card.pixels:
            cover = resize_target(card.image_size, card.crop_pct)
            whole = load(path, cover, card.interpolation)
            return np.stack([whole, whole[:, ::-1]] if tta == "flip" else [whole])
        whole = load_whole(path, card.image_size, card.crop_pct, card.interpolation)
        center = center_crop(whole, card.image_size)
        if tta == "flip":
            return np.stack([center, center[:, ::-1]])
        more = corners(whole, card.image_size) if tta == "crops" else ()
        return np.stack([center, *more])


def _open(path: Path, data: bytes) -> Any:
    """Return a session of onnxruntime. Raises UsageError without it, GtaError for the model."""
    try:
        import onnxruntime
    except ImportError:
        text = "an ONNX file needs onnxruntime: pip install 'gtacli[onnx]'"
        raise UsageError(text, option="model") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would write is in the error
    options.intra_op_num_threads = usable_cores()
    if _limit_memory():
        options.add_session_config_entry("session.use_env_allocators", "1")
    # Idle threads would wait in a loop, which takes time from those that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of the library's own
        raise GtaError(f"{path} cannot be run: {_reason(error)}", option="model") from None
    names = [each.name for each in session.get_inputs()]
    if names != [INPUT] or "probabilities" not in {each.name for each in session.get_outputs()}:
        raise GtaError(f"{path} has other inputs or outputs than its card says", option="model")
    return session


@cache
def _limit_memory() -> bool:
    """Limit the memory of all graphs to what is free now; return whether that is known."""
    import onnxruntime as ort

    free = available_memory()
    if free is None:
        return False
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0,
                             ort.OrtMemType.DEFAULT)  # fmt: skip
    try:
        ort.create_and_register_allocator(info, ort.OrtArenaCfg({"max_mem": free}))
    except Exception:  # the program around this one has set its own
        log.debug("onnxruntime keeps the allocator that it has")
    return True


_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE = re.compile(r"/\S+\.(cc|h):\d+ .*?(?=[A-Z]\w+ )")


def _reason(error: Exception) -> str:
    """Return why onnxruntime has failed, in words."""
    text = str(error)
    if isinstance(error, MemoryError) or "memory" in text:
        return "its graph needs more memory than is free; try a smaller `batch_size`"
    return reason_of_library(RuntimeError(_PLACE.sub("", _PREFIX.sub("", text))))


def predict_onnx(
    model: OnnxModel,
    paths: Iterable[str],
    top: int = 5,
    batch_size: int = 32,
    stop: Stop = never,
    sure_from: float | None = None,
    tta: Tta = "none",
    threshold: float = THRESHOLD,
) -> Iterator[Prediction | Failure]:
    """Yield the most probable classes of each image; see `gtacli.inference.predict.predict`.

    Raises UsageError for crops of a graph that crops, RunError if the graph cannot run.
    """
    if tta == "crops" and model.card.pixels:
        text = "this file crops images itself; export it without `with_preprocessing`, or use flip"
        raise UsageError(text, option="tta")

    def read(path: str) -> tuple[str, NDArray[np.uint8]]:
        return path, model.read(Path(path), tta)

    def run(batch: list[tuple[str, NDArray[np.uint8]]]) -> list[Prediction]:
        views = np.stack([each for _, each in batch])
        each = model.probabilities(views.reshape(-1, *views.shape[2:]))
        mean = each.reshape(*views.shape[:2], -1).mean(1)
        names, (rows, _) = model.card.classes.__getitem__, zip(*batch, strict=True)
        above = threshold if model.card.multi_label else None
        return predictions(rows, mean, names, top, sure_from, above)

    # Images of a graph that takes pixels have sizes of their own.
    yield from stream(paths, read, run, 1 if model.card.pixels else batch_size, stop=stop)
