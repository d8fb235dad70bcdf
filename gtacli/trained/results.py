"""The results of `gta merge`, `gta calibrate` and `gta export`."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from gtacli.runtime.results import Doc

_ECE = "calibration error (with any number of labels: of the probability of each label)"
_MAP = "in place of the accuracy, with any number of labels: mean average precision"


class MergedRun(TypedDict):
    """A run that is part of a merge."""

    run: Annotated[str, Doc("its folder")]
    kept: Annotated[bool, Doc("whether its weights are in the mean")]
    val_top1: Annotated[float | None, Doc("top-1 accuracy on the common held-out images")]
    test_top1: Annotated[float | None, Doc("top-1 accuracy on test images, as the run reports it")]
    val_map: NotRequired[Annotated[float | None, Doc(f"{_MAP} on the common held-out images")]]
    test_map: NotRequired[
        Annotated[float | None, Doc(f"{_MAP} on test images, as the run reports it")]
    ]


class MergedLabels(TypedDict, total=False):
    """The fields of the result of `gta merge` that any number of labels add."""

    val_map: Annotated[float | None, Doc(f"{_MAP} on held-out images of all runs")]
    test_map: Annotated[float | None, Doc(f"{_MAP} on the test images")]


class MergeSummary(MergedLabels):
    """The result of `gta merge`."""

    command: Literal["merge"]
    run: Annotated[str, Doc("folder of the merged model")]
    runs: Annotated[list[MergedRun], Doc("the runs, in the order given")]
    alpha: Annotated[float, Doc("weight of the runs; their source's is 1 - alpha")]
    val_top1: Annotated[float | None, Doc("top-1 accuracy on held-out images of all runs")]
    test_top1: Annotated[float | None, Doc("top-1 accuracy on the test images; null without any")]
    test_top5: Annotated[float | None, Doc("top-5 accuracy")]
    test_mean_class_top1: Annotated[float | None, Doc("mean of the classes' top-1 accuracies")]
    n_val: Annotated[int, Doc("images that no run has learned from, to choose by")]
    n_test: Annotated[int, Doc("test images")]
    seconds: Annotated[float, Doc("run time", "s")]


_ABOVE = "of the probabilities above `label_threshold`"
_MACRO = "mean over the classes that an image has of the F1"
_MICRO = "F1 of all labels together,"


class CalibratedLabels(TypedDict, total=False):
    """The fields of the result of `gta calibrate` that any number of labels add."""

    label_threshold: Annotated[
        float | None,
        Doc("probability above which a label is predicted; null: no held-out image has a label"),
    ]
    val_f1_micro_before: Annotated[
        float | None, Doc(f"{_MICRO} of the probabilities above 0.5, on the held-out images")
    ]
    val_f1_micro: Annotated[float | None, Doc(f"{_MICRO} {_ABOVE}, which was chosen on them")]
    val_f1_macro_before: Annotated[float | None, Doc(f"{_MACRO} of the probabilities above 0.5")]
    val_f1_macro: Annotated[float | None, Doc(f"{_MACRO} {_ABOVE}")]
    test_f1_micro_before: Annotated[float | None, Doc("as `val_f1_micro_before`, on test images")]
    test_f1_micro: Annotated[float | None, Doc("as `val_f1_micro`, on test images")]
    test_f1_macro_before: Annotated[float | None, Doc("as `val_f1_macro_before`, on test images")]
    test_f1_macro: Annotated[float | None, Doc("as `val_f1_macro`, on test images")]


class CalibrateSummary(CalibratedLabels):
    """The result of `gta calibrate`."""

    command: Literal["calibrate"]
    run: Annotated[str, Doc("the run folder")]
    temperature: Annotated[float, Doc("by which logits are divided; above 1: it was too sure")]
    threshold: Annotated[
        float | None,
        Doc("probability from which on a prediction is sure; null: none is, or several labels"),
    ]
    sure: Annotated[float | None, Doc("fraction of the held-out images at or above it")]
    val_ece_before: Annotated[float, Doc(f"{_ECE} on the held-out images, uncalibrated")]
    val_ece: Annotated[float, Doc("with the temperature, which was chosen on them")]
    test_ece_before: Annotated[float | None, Doc("on the test images, uncalibrated")]
    test_ece: Annotated[float | None, Doc("with the temperature")]
    test_sure: Annotated[float | None, Doc("fraction of the test images that are sure")]
    test_sure_top1: Annotated[float | None, Doc("top-1 accuracy of these")]
    n_val: Annotated[int, Doc("held-out images")]
    n_test: Annotated[int, Doc("test images")]


class ExportSummary(TypedDict):
    """The result of `gta export`."""

    command: Literal["export"]
    model: Annotated[str, Doc("the model that was exported")]
    file: Annotated[str, Doc("the file, or the folder")]
    format: Annotated[str, Doc("name of the format")]
    bytes: Annotated[int, Doc("size of the file, or of those in the folder", "bytes")]
    outputs: Annotated[list[str], Doc("outputs of the graph, in order")]
    classes: Annotated[int, Doc("number of classes; 0 without a classifier")]
    image_size: Annotated[list[int], Doc("[height, width] of the network's input", "px")]
    any_size: Annotated[bool, Doc("whether the graph takes images of other sizes, too")]
    preprocessing: Annotated[bool, Doc("whether the graph resizes, crops and normalizes")]
    temperature: Annotated[float, Doc("by which the graph divides the logits")]
    registers: Annotated[int, Doc("number of test-time registers in the graph")]
    checked_on: Annotated[str, Doc("the images on which the file was compared with the model")]
    n_checked: Annotated[int, Doc("number of these images")]
    differences: Annotated[
        dict[str, float], Doc("largest difference from PyTorch on them, by output")
    ]
    preprocessing_difference: Annotated[
        float | None,
        Doc("of the first output from that with the command's own preprocessing; null without"),
    ]
