"""The fields that the results of all commands that train have."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from gtacli.runtime.results import Doc


class EpochMetrics(TypedDict):
    """The fields of every row of metrics.jsonl."""

    epoch: Annotated[int, Doc("number of the epoch, from 0; the log and the report count from 1")]
    train_loss: Annotated[float, Doc("mean of the training loss over the epoch's images")]
    images_per_second: Annotated[float, Doc("training images per second, without evaluation")]
    lr: Annotated[
        float, Doc("learning rate of the backbone, or of the head alone, at the epoch's end")
    ]


class RunCosts(TypedDict):
    """The fields of every summary.json that say what the run cost."""

    seconds: Annotated[float, Doc("run time of this process", "s")]
    cpu_seconds: Annotated[
        float, Doc("CPU time of this run's processes, of those that load images too", "s")
    ]
    images_per_second: Annotated[float, Doc("median of the epochs' training images per second")]
    peak_memory_mb: Annotated[float, Doc("largest memory use of a process", "MB")]
    skipped: NotRequired[
        Annotated[int, Doc("number of unreadable images and shards; absent without any")]
    ]
    incomplete: NotRequired[
        Annotated[int, Doc("number of images read without their last bytes; absent without any")]
    ]
    dry_run: NotRequired[Annotated[bool, Doc("true in a dry run, else absent")]]
