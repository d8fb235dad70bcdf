"""The calibration of a run, as `gta calibrate` has written it into the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gtacli.config.base import StrictModel, read_content
from gtacli.errors import GtaError
from gtacli.runtime.atomic import to_json, write_atomic
from gtacli.runtime.paths import user_path
from gtacli.runtime.run_files import CALIBRATION_FILE
from gtacli.runtime.strict_json import read_json, reason_of

Fraction = Annotated[float, Field(ge=0, le=1)]
Bin = tuple[Fraction, Fraction, Fraction, Fraction, Annotated[int, Field(ge=1)]]
"""As `gtacli.measures.calibration.ReliabilityBin`."""


class Reliability(StrictModel):
    """The accuracy at each confidence, on images that the run has not learned from.

    With any number of labels: the frequency of the labels at each probability.

    Attributes:
        images: the test images, or without any the held-out ones, which chose the temperature.
        before: bins without the temperature.
        after: bins with it.
    """

    images: Literal["test", "val"]
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]


class LabelThreshold(StrictModel):
    """The probability above which a model for any number of labels predicts one.

    Attributes:
        value: the probability.
        f1_before: F1 of all labels together above 0.5, on the images of the reliability.
        f1_after: above this probability.
    """

    value: float = Field(ge=0, lt=1)
    f1_before: Fraction
    f1_after: Fraction


class RunCalibration(StrictModel):
    """A temperature and a threshold.

    Attributes:
        temperature: logits are divided by it.
        threshold: probability from which on predictions are sure; None: none is, or an image has
            any number of labels.
        labels: threshold of any number of labels; None: an image has one class, or the images that
            chose the temperature have no label.
        accuracy: fraction of right predictions among the sure ones, for which `threshold` was
            chosen.
        images: held-out images that chose both.
        reliability: for the diagram; None: an earlier version has written the file.
    """

    temperature: float = Field(gt=0, allow_inf_nan=False)
    threshold: float | None = Field(default=None, ge=0, le=1)
    labels: LabelThreshold | None = None
    accuracy: float | None = Field(default=None, gt=0, le=1)
    images: int = Field(ge=1)
    reliability: Reliability | None = None


def write_calibration(run: Path, found: RunCalibration) -> None:
    """Write the calibration into a run folder. Raises RunError if that is impossible."""
    text = to_json(found.model_dump(), indent=1) + "\n"
    write_atomic(run / CALIBRATION_FILE, lambda draft: draft.write_text(text, encoding="utf-8"))


def read_calibration(spec: str) -> RunCalibration | None:
    """Return the calibration of a model; None of one that is no run, or was not calibrated.

    Raises GtaError for a damaged file.
    """
    path = user_path(spec) / CALIBRATION_FILE
    try:
        found: RunCalibration = read_content(RunCalibration, read_json(path), as_json=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, GtaError) as error:
        reason = error.message if isinstance(error, GtaError) else reason_of(error)
        text = f"{path} cannot be read ({reason}); delete it, or run gta calibrate again"
        raise GtaError(text) from None
    return found
