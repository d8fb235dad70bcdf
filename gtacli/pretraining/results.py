"""The results of `gta pretrain`."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from gtacli.runtime.results import Doc
from gtacli.training.results import EpochMetrics, RunCosts

_RECON = "mean squared error of a masked patch"


class PretrainEpoch(EpochMetrics):
    """A row of metrics.jsonl of a pre-training."""

    recon: Annotated[float, Doc(f"{_RECON}, not weighted by the guidance")]
    tau: NotRequired[Annotated[float, Doc("temperature of the guidance; only with guidance")]]
    recon_fg: NotRequired[
        Annotated[float | None, Doc(f"{_RECON} inside the object; only with maps")]
    ]
    recon_bg: NotRequired[
        Annotated[float | None, Doc(f"{_RECON} outside the object; only with maps")]
    ]
    knn_top1: Annotated[
        float | None, Doc("20-nn accuracy, fraction; null in epochs without this measurement")
    ]


class PretrainSummary(RunCosts):
    """The content of summary.json of a pre-training, which `gta pretrain` prints."""

    command: Literal["pretrain"]
    run: Annotated[str, Doc("path of the run folder")]
    final_loss: Annotated[float | None, Doc("training loss of the last epoch")]
    recon: Annotated[float | None, Doc(f"{_RECON} in the last epoch")]
    recon_fg: Annotated[float | None, Doc(f"{_RECON} inside the object in the last epoch")]
    recon_bg: Annotated[float | None, Doc(f"{_RECON} outside the object in the last epoch")]
    knn_top1: Annotated[float | None, Doc("20-nn accuracy after the last epoch, fraction")]
    n_train: Annotated[
        int, Doc("number of readable training images; of a stream the images of an epoch")
    ]
    n_val: Annotated[int, Doc("number of images that the 20-nn probe classifies")]
    epochs: Annotated[int, Doc("length of the schedule in epochs")]
