"""The results of `gta finetune`."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from gtacli.runtime.results import Doc
from gtacli.training.results import EpochMetrics, RunCosts

_DRIFT = (
    "squared distance of the CLS rows of attention logits from the source's, mean over blocks, "
    "heads and validation images (without such: a fifth of the training images)"
)


_MAP = "mean average precision over the classes that an image has"
_F1_MACRO = "mean over these classes of the F1 of the probabilities above 0.5"
_F1_MICRO = "F1 of the probabilities above 0.5 of all classes together"
_VAL_MAP = Annotated[
    float | None, Doc(f"{_MAP}, on the validation images; only with `multi_label`")
]


class EpochAttention(TypedDict):
    """The field `attention` of an epoch, measured on the same images as the drift."""

    inside: Annotated[
        list[float] | None,
        Doc("fraction of the CLS token's attention on the object, by block; null without masks"),
    ]
    entropy: Annotated[
        list[float] | None, Doc("entropy of the CLS token's attention, by block", "nats")
    ]
    kl: Annotated[
        list[float] | None,
        Doc("KL divergence from the source's attention, by block; null without a source", "nats"),
    ]
    area: Annotated[float | None, Doc("fraction of the patches that the object covers")]
    n_images: Annotated[int, Doc("number of images")]
    n_inside: Annotated[int, Doc("number of images with a mask")]


_RegularizerMetrics = TypedDict(
    "_RegularizerMetrics",
    {
        "reg.<name>": NotRequired[
            Annotated[
                float | None,
                Doc("penalty of a regularizer, not multiplied by `lam`; null while it is inactive"),
            ]
        ],
        "reg.<name>.<metric>": NotRequired[
            Annotated[float, Doc("further metric of a regularizer")]
        ],
    },
)


class FinetuneEpoch(EpochMetrics, _RegularizerMetrics):
    """A row of metrics.jsonl of a fine-tuning."""

    ce: Annotated[float, Doc("training cross-entropy, or focal loss", "nats")]
    val_top1: Annotated[
        float | None,
        Doc(
            "accuracy on the validation images, fraction; null in a refit, without such images and "
            "with `multi_label`"
        ),
    ]
    val_map: NotRequired[_VAL_MAP]
    val_f1_macro: NotRequired[Annotated[float | None, Doc(f"{_F1_MACRO} on these images")]]
    val_f1_micro: NotRequired[Annotated[float | None, Doc(f"{_F1_MICRO} on these images")]]
    val_loss: Annotated[float | None, Doc("cross-entropy on the validation images", "nats")]
    attention_drift: Annotated[float | None, Doc(f"{_DRIFT}; null where it is not measured")]
    attention: NotRequired[
        Annotated[EpochAttention | None, Doc("attention metrics; only with `track_attention`")]
    ]
    phase: NotRequired[Annotated[Literal["refit"], Doc('"refit" in a refit, else absent')]]


ClassResult = TypedDict(
    "ClassResult",
    {
        "class": Annotated[str, Doc("name of the class")],
        "top1": Annotated[float, Doc("accuracy on its test images, fraction")],
        "n_test": Annotated[int, Doc("number of its test images")],
    },
)
ClassResult.__doc__ = "An element of the field `worst_classes`."


LabelResult = TypedDict(
    "LabelResult",
    {
        "class": Annotated[str, Doc("name of the class")],
        "ap": Annotated[float, Doc("average precision")],
        "f1": Annotated[float, Doc("F1 of the probabilities above 0.5")],
        "n_test": Annotated[int, Doc("number of test images that have it")],
    },
)
LabelResult.__doc__ = "An element of the field `label_results`."


class TestLabels(TypedDict, total=False):
    """The fields of summary.json that `multi_label` adds for the test images."""

    test_map: Annotated[float | None, Doc(_MAP)]
    test_f1_macro: Annotated[float | None, Doc(_F1_MACRO)]
    test_f1_micro: Annotated[float | None, Doc(_F1_MICRO)]
    label_results: Annotated[list[LabelResult], Doc("metrics of each class that an image has")]


class TestAttention(TypedDict, total=False):
    """The fields of summary.json that `track_attention` adds for the test images."""

    test_attention_inside: Annotated[
        float | None, Doc("fraction of attention on the object in the last block")
    ]


class TestMetrics(TestAttention, TestLabels):
    """The fields of summary.json that are measured on the test images."""

    test_top1: Annotated[float | None, Doc("accuracy, fraction; null with `multi_label`")]
    test_top5: Annotated[float | None, Doc("fraction with the class among the 5 most likely")]
    test_mean_class_top1: Annotated[float | None, Doc("mean of the classes' accuracies, fraction")]
    worst_classes: Annotated[
        list[ClassResult], Doc("up to five classes with the lowest accuracy below 1, worst first")
    ]


class ValidationLabels(TypedDict, total=False):
    """The field of summary.json that `multi_label` adds for the validation images."""

    val_map: _VAL_MAP


class ValidationAttention(TypedDict, total=False):
    """The fields of summary.json that `track_attention` adds for the images of the drift."""

    attention_inside: Annotated[
        float | None, Doc("fraction of attention on the object in the last block")
    ]
    attention_area: Annotated[float | None, Doc("fraction of the patches that the object covers")]


class SearchResult(TypedDict):
    """The content of search.json and the field `lam_search`: how `lam=auto` chose."""

    chosen: Annotated[float, Doc("the chosen strength")]
    scores: Annotated[
        dict[str, list[float | None]],
        Doc("best validation accuracy of each strength at each decision; null where it failed"),
    ]
    epochs: Annotated[int, Doc("epochs trained for all strengths together")]
    seconds: Annotated[float, Doc("run time of the search", "s")]
    why: Annotated[
        str | None,
        Doc("which strength is taken where these accuracies cannot tell, and why; null: strongest"),
    ]


_LAM = Annotated[
    float, Doc("strength of the first regularizer, where the program chose it (`lam` unset, auto)")
]


class ChosenStrength(TypedDict, total=False):
    """The fields of summary.json that `lam=auto` adds."""

    lam: _LAM
    lam_search: Annotated[SearchResult, Doc("how it was chosen")]


class KeptAttention(TypedDict, total=False):
    """The content of kept_attention.json, and fields of summary.json, where `lam` is not set."""

    lam: _LAM
    kept_attention: Annotated[
        float, Doc("fraction of the blocks whose attention is kept near the source's")
    ]
    kept_blocks: Annotated[list[int], Doc("numbers of these blocks")]
    cls_top1: Annotated[
        float | None,
        Doc(
            "left-one-out accuracy of a ridge classifier of the CLS token's features; fraction; "
            "null with `multi_label`"
        ),
    ]
    blocks_top1: Annotated[
        float | None, Doc("the same of the features of all blocks; null without a CLS token")
    ]
    cls_ranking: Annotated[
        float | None,
        Doc("with `multi_label` the label ranking average precision in place of this accuracy"),
    ]
    blocks_ranking: Annotated[
        float | None, Doc("the same of the features of all blocks; null without a CLS token")
    ]
    why: Annotated[str, Doc("the reason in words")]


class AverageWeight(TypedDict, total=False):
    """The field of summary.json that `average=source` adds."""

    average_alpha: Annotated[
        float, Doc("weight of the trained backbone in the mean with the one before training")
    ]


class CrossValidation(TypedDict, total=False):
    """The fields of summary.json that `folds` adds."""

    folds_top1: Annotated[
        float,
        Doc("accuracy on the training images, each by a network that never saw it; fraction"),
    ]
    folds_map: Annotated[
        float | None,
        Doc(f"with `multi_label` in place of this: {_MAP}, all images ranked together"),
    ]
    folds_interval: Annotated[
        list[float] | None,
        Doc("95 % interval of one of these: low, high; Wilson's, of the mAP by bootstrap"),
    ]
    folds_f1_macro: Annotated[float | None, Doc(f"{_F1_MACRO}; only with `multi_label`")]
    folds_f1_micro: Annotated[float | None, Doc(f"{_F1_MICRO}; only with `multi_label`")]
    folds_mean_class_top1: Annotated[
        float | None, Doc("mean of the classes' accuracies on the same images, fraction")
    ]
    folds_top1_by_fold: Annotated[list[float], Doc("accuracy on each fold, fraction")]
    folds_map_by_fold: Annotated[
        list[float | None], Doc("mAP on each fold; null without any label; with `multi_label`")
    ]
    n_folds: Annotated[int, Doc("number of images that were classified so")]


class LinearProbe(TypedDict, total=False):
    """The content of linear_probe.json, which summary.json repeats; absent where it is unknown."""

    linear_probe_top1: Annotated[
        float,
        Doc(
            "test accuracy of a logistic regression on the frozen features of the same training "
            "images, fraction"
        ),
    ]
    linear_probe_map: Annotated[
        float, Doc("with `multi_label` the mean average precision of one such for each class")
    ]


class BeforeTraining(ChosenStrength, KeptAttention, LinearProbe, total=False):
    """The fields of summary.json that are known before the first step."""


class FinetuneSummary(
    TestMetrics,
    ValidationAttention,
    ValidationLabels,
    RunCosts,
    BeforeTraining,
    AverageWeight,
    CrossValidation,
):
    """The content of summary.json of a fine-tuning, which `gta finetune` prints."""

    command: Literal["finetune"]
    run: Annotated[str, Doc("path of the run folder")]
    n_train: Annotated[int, Doc("number of readable training images; with those of a refit")]
    n_val: Annotated[int, Doc("number of readable validation images")]
    n_test: Annotated[int, Doc("number of readable test images")]
    epochs: Annotated[int, Doc("length of the schedule in epochs")]
    epochs_run: Annotated[int, Doc("epochs trained, without a refit")]
    stopped_early: Annotated[bool, Doc("whether patience ended the training")]
    best_epoch: Annotated[
        int | None,
        Doc(
            "epoch of the saved weights: the latest within one standard error of the best; from 0 "
            "as in metrics.jsonl, while log, printed result and report count from 1"
        ),
    ]
    val_top1: Annotated[
        float | None,
        Doc("validation accuracy of that epoch, fraction; null with `multi_label`"),
    ]
    attention_drift: Annotated[float | None, Doc(f"{_DRIFT}, of the saved weights")]
    trainable_parameters: Annotated[int, Doc("number of parameters that learned, the head's too")]
