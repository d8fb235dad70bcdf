"""`gta predict`: the classes of images, one line per image, or a table."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Images, NullSeparated, config_command
from gtacli.config.predict import PredictConfig
from gtacli.errors import UsageError
from gtacli.runtime.paths import user_path

if TYPE_CHECKING:
    from gtacli.inference.calibrated import RunCalibration
    from gtacli.inference.prediction_table import PredictionTable
    from gtacli.inference.results import Prediction
    from gtacli.inference.stream import Failure, Stop

app = new_app()
log = logging.getLogger(__name__)


@config_command(app, PredictConfig, "predict", dry_run=False)
def predict(
    config: PredictConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Name the classes of images, the most probable first.

    An image that cannot be read is reported, and the others are processed; the exit status is 1.
    """
    if config.model is None:
        raise UsageError("name a run folder of gta finetune, or another model", option="model")
    places = _table_files(config, call.json)
    from gtacli.cli.follow import follow, lines
    from gtacli.data.inputs import iter_paths
    from gtacli.inference.prediction_table import (
        CsvTable,
        TableShape,
        label_separator,
        write_tables,
    )

    paths = iter_paths(images or [], sys.stdin.buffer, null)
    source = _from_onnx(config) if is_onnx(config.model) else _from_torch(config)
    show: Callable[[Prediction], object] = lines(call.json, _text)
    separator = label_separator(source.names) if source.multi_label else None
    table = TableShape(min(config.top, source.classes), source.says_unsure, separator)
    streamed: list[PredictionTable] = []
    if config.csv == "-":
        streamed, show = [CsvTable(console.say, table)], lambda result: None

    def fill(tables: list[PredictionTable]) -> int:
        tables = [*streamed, *tables]

        def added(stop: Stop) -> Iterator[Prediction | Failure]:
            for result in source.predict(paths, stop):
                for one in tables:
                    one.add(result)
                yield result

        return follow(added, show, call.json).status

    status = write_tables(places, table, fill)
    for one in streamed:
        one.finish()  # of no image at all
    return status


class _Source(NamedTuple):
    """A model that predicts.

    Attributes:
        predict: yields the results of paths.
        classes: number of its classes.
        says_unsure: whether results say that they are not sure.
        multi_label: whether an image has any number of the classes.
        names: of the classes, where it has.
    """

    predict: Callable[[Iterable[str], Stop], Iterator[Prediction | Failure]]
    classes: int
    says_unsure: bool
    multi_label: bool = False
    names: Sequence[str] = ()


def is_onnx(spec: str) -> bool:
    """Return whether a model spec names an ONNX file, which is run without torch."""
    return spec.lower().endswith(".onnx") and not os.path.isdir(user_path(spec))


def _from_onnx(config: PredictConfig) -> _Source:
    from gtacli.inference.onnx_model import OnnxModel, predict_onnx

    for key, works in (("device", ("auto", "cpu")), ("precision", ("auto", "fp32"))):
        if getattr(config, key) not in works:
            text = f"an ONNX file is run on the CPU in fp32; {' and '.join(works)} work"
            raise UsageError(text, option=key)
    assert config.model is not None
    model = OnnxModel(user_path(config.model))
    threshold = _threshold(config, model.card.multi_label, model.card.label_threshold)
    sure_from = config.unsure
    if sure_from == "auto":
        sure_from = model.card.threshold
        if sure_from is None:
            text = "auto needs a file of a run that was calibrated before its export"
            raise UsageError(text, option="unsure")

    def run(paths: Iterable[str], stop: Stop) -> Iterator[Prediction | Failure]:
        size, tta = config.batch_size, config.tta
        return predict_onnx(model, paths, config.top, size, stop, sure_from, tta, threshold)

    names, several = model.card.classes, model.card.multi_label
    return _Source(run, len(names), sure_from is not None, several, names)


def _from_torch(config: PredictConfig) -> _Source:
    from gtacli.inference.predict import predict as run
    from gtacli.models import load_model
    from gtacli.runtime.devices import choose_compute

    compute = choose_compute(config.device, config.precision)
    assert config.model is not None
    model = load_model(config.model)
    found = _calibration(config.model)
    temperature = 1.0 if found is None else found.temperature
    labels = None if found is None else found.labels
    threshold = _threshold(config, model.multi_label, None if labels is None else labels.value)
    sure_from = _sure_from(config, found)

    def start(paths: Iterable[str], stop: Stop) -> Iterator[Prediction | Failure]:
        size, tta = config.batch_size, config.tta
        sure = (temperature, sure_from)
        return run(model, paths, compute, config.top, size, stop, *sure, tta, threshold)

    classes = int(getattr(model.model, "num_classes", 0))
    several = model.multi_label
    return _Source(start, classes, sure_from is not None, several, model.classes)


def _threshold(config: PredictConfig, multi_label: bool, chosen: float | None) -> float:
    """Return the probability above which labels are predicted.

    Args:
        chosen: by the calibration of the model, if it has one.

    Raises UsageError.
    """
    from gtacli.inference.predictions import THRESHOLD

    if multi_label and config.unsure is not None:
        text = "the model has any number of labels; `threshold` sets which are predicted"
        raise UsageError(text, option="unsure")
    if not multi_label and config.threshold is not None:
        text = "is for models of any number of labels; this one predicts one class"
        raise UsageError(text, option="threshold")
    if config.threshold is not None:
        return config.threshold
    if multi_label and chosen is not None:
        log.info("calibrated: labels above %.3g", chosen)
        return chosen
    return THRESHOLD


def _calibration(model: str) -> RunCalibration | None:
    """Return the calibration of a model, and log it."""
    from gtacli.inference.calibrated import read_calibration

    found = read_calibration(model)
    if found is not None:
        log.info("calibrated: temperature %.3g", found.temperature)
    return found


def _sure_from(config: PredictConfig, found: RunCalibration | None) -> float | None:
    """Return the probability from which on predictions are sure; None: that is not said."""
    if config.unsure != "auto":
        return config.unsure
    if found is None:
        raise UsageError("auto needs a calibrated run: gta calibrate RUN", option="unsure")
    if found.threshold is None:
        text = f"no probability kept to {found.accuracy:g} on the held-out images; give a number"
        raise UsageError(text, option="unsure")
    return found.threshold


def _table_files(config: PredictConfig, as_json: bool) -> dict[str, Path]:
    """Return the tables' files by option; report one that has no place before anything is loaded.

    Raises UsageError.
    """
    if config.csv == "-" and as_json:
        raise UsageError("- is stdout, where the lines of JSON go; name a file", option="csv")
    named = {"csv": config.csv, "parquet": config.parquet}
    places = {key: Path(name) for key, name in named.items() if name not in (None, "-")}
    for key, place in places.items():
        if place.suffix.lower() != f".{key}":
            raise UsageError(f"{place} does not end in .{key}", option=key)
        if os.path.isdir(place):
            raise UsageError(f"{place} is a folder; name a file in it", option=key)
    if config.parquet is not None and find_spec("pyarrow") is None:
        raise UsageError("needs pyarrow: pip install 'gtacli[parquet]'", option="parquet")
    return places


def _text(result: Prediction) -> str:
    shown = result.get("labels", result["top"])
    ranked = (f"{t['class']} {100 * t['probability']:.1f} %" for t in shown)
    unsure = "\tnot sure" if result.get("unsure") else ""
    return f"{result['image']}\t{', '.join(ranked) or 'no label'}{unsure}"
