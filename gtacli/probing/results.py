"""The results of `gta probe`, one per model (and per dataset of `robust` and `transfer`).

They are the lines of JSON, and the items of `results` in summary.json. Metrics are fractions 0 to
1; a metric NAME has its 95 % confidence interval [low, high] beside it as NAME_interval. A metric
that is undefined is null.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from gtacli.runtime.results import Doc

_Interval = Annotated[list[float | None] | None, Doc("95 % confidence interval [low, high]")]
_ByHead = Annotated[list[float] | None, Doc("one number per head; one number for their mean")]


class Comparison(TypedDict):
    """The paired test of a metric against the first model's on the same images."""

    difference: Annotated[float | None, Doc("the metric minus the first model's")]
    low: Annotated[float | None, Doc("lower end of the difference's 95 % confidence interval")]
    high: Annotated[float | None, Doc("upper end of the interval")]
    p: Annotated[float, Doc("two-sided p-value")]
    test: Annotated[Literal["McNemar", "paired permutation", "paired t"], Doc("name of the test")]


class ProbeLine(TypedDict):
    """The fields that all probes have."""

    task: Annotated[str, Doc("name of the probe")]
    model: Annotated[str, Doc("the model, as it was given")]
    reference: Annotated[str | None, Doc("the model it is compared with; null for the first one")]
    data: Annotated[str | None, Doc("the dataset, as it was given")]
    seconds: Annotated[float, Doc("run time", "s")]
    compared: NotRequired[
        Annotated[dict[str, Comparison], Doc("by metric; not for the first model")]
    ]


class FeatureLine(ProbeLine):
    """The fields that the probes of features have."""

    features: Annotated[str, Doc("cls, mean or cls+mean")]
    layer: Annotated[list[int], Doc("numbers of the blocks")]
    image_size: Annotated[list[int], Doc("input size [height, width]", "px")]
    n_train: Annotated[int, Doc("training images; 0 if the probe uses none")]
    n_test: Annotated[int, Doc("test images")]
    test_part: Annotated[
        Literal["test", "val", "held-out"],
        Doc("the dataset's split that was tested on, or held out of its training split"),
    ]


class KnnResult(FeatureLine):
    """The result of `gta probe knn`."""

    knn: Annotated[dict[str, float], Doc("top-1 accuracy by k, with the first temperature")]
    knn_interval: Annotated[dict[str, list[float | None]], Doc("its interval by k")]
    k: Annotated[int, Doc("the k of top1 and top5: 20, or the first one")]
    temperature: Annotated[float, Doc("the first temperature")]
    top1: Annotated[float, Doc("top-1 accuracy at k")]
    top1_interval: _Interval
    top5: Annotated[float, Doc("top-5 accuracy at k")]
    top5_interval: _Interval
    temperatures: NotRequired[
        Annotated[
            dict[str, dict[str, float]],
            Doc("top-1 accuracy by temperature and k; only with several temperatures"),
        ]
    ]


class LinearResult(FeatureLine):
    """The result of `gta probe linear`."""

    protocol: Annotated[Literal["sweep", "mae"], Doc("the protocol")]
    top1: Annotated[float, Doc("top-1 accuracy")]
    top1_interval: _Interval
    top5: Annotated[float, Doc("top-5 accuracy")]
    top5_interval: _Interval
    chosen_on: Annotated[
        Literal["val", "held-out", "folds", "test"] | None,
        Doc(
            "images that the head (mae: the epoch) was chosen on; folds: all training images, by "
            "cross-validation; null if nothing was chosen"
        ),
    ]
    lr: Annotated[float | None, Doc("learning rate of the head; null for logistic regression")]
    head_batch: Annotated[
        int | None, Doc("images a step of the head; null for logistic regression")
    ]
    solver: NotRequired[
        Annotated[Literal["logistic", "sgd"], Doc("sweep: logistic regression, or SGD")]
    ]
    c: NotRequired[Annotated[float, Doc("logistic: inverse strength of the penalty")]]
    folds: NotRequired[
        Annotated[int | None, Doc("logistic: folds of the cross-validation; null without one")]
    ]
    chosen_top1_se: NotRequired[
        Annotated[float | None, Doc("logistic: standard error of chosen_top1")]
    ]
    chosen_top1: NotRequired[
        Annotated[float | None, Doc("sweep: accuracy of the chosen head on those images")]
    ]
    n_chosen_on: NotRequired[Annotated[int, Doc("sweep: number of those images")]]
    heads: NotRequired[Annotated[int, Doc("sweep: number of heads to choose from")]]
    steps: NotRequired[Annotated[int, Doc("sgd: training steps of the chosen head")]]
    epoch: NotRequired[Annotated[int, Doc("mae: epoch of the result, from 0")]]
    epochs: NotRequired[Annotated[int, Doc("mae: number of epochs")]]


class LabelsResult(FeatureLine):
    """The result of `gta probe linear` on images with any number of labels."""

    protocol: Annotated[Literal["labels"], Doc("a logistic regression for each label")]
    map: Annotated[float | None, Doc("mean of the average precisions of labels that images have")]
    map_interval: _Interval
    ranking: Annotated[
        float | None, Doc("label ranking average precision, mean over images with a label")
    ]
    ranking_interval: _Interval
    f1_macro: Annotated[float | None, Doc("mean over labels of the F1 of probabilities above 0.5")]
    f1_micro: Annotated[float | None, Doc("F1 of the probabilities above 0.5 of all labels")]
    chosen_on: Annotated[
        Literal["val", "held-out"] | None,
        Doc("images that features and penalty were chosen on; null if nothing was chosen"),
    ]
    chosen_map: Annotated[float | None, Doc("mAP on these images")]
    n_chosen_on: Annotated[int, Doc("number of these images")]
    heads: Annotated[int, Doc("number of choices of features and penalty")]
    c: Annotated[float, Doc("inverse strength of the penalty")]


class FewshotResult(FeatureLine):
    """The result of `gta probe fewshot`; classifiers are linear, centroid and knn."""

    fewshot: Annotated[
        dict[str, dict[str, float]],
        Doc("mean accuracy over the draws, by images per class and classifier"),
    ]
    fewshot_interval: Annotated[
        dict[str, dict[str, list[float | None]]], Doc("its interval over the draws")
    ]
    fewshot_sd: Annotated[
        dict[str, dict[str, float | None]], Doc("its standard deviation over the draws")
    ]
    draws: Annotated[int, Doc("number of draws")]
    c: Annotated[float, Doc("linear: inverse strength of the penalty")]
    k: Annotated[int, Doc("knn: number of neighbors")]
    temperature: Annotated[float, Doc("knn: temperature of the votes")]
    short_classes: Annotated[
        dict[str, int], Doc("by images per class, the classes that have fewer and give all")
    ]


class RetrievalResult(FeatureLine):
    """The result of `gta probe retrieval`; with recall@K and recall@K_interval for each K."""

    map: Annotated[float, Doc("mean average precision over the queries")]
    map_interval: _Interval
    gallery: Annotated[Literal["test", "train"], Doc("the split that is searched")]
    n_gallery: Annotated[int, Doc("images that each query is compared with")]
    n_queries: Annotated[int, Doc("queries with a relevant image")]


class RevisitedResult(FeatureLine):
    """The result of `gta probe retrieval --ground-truth`: revisited Oxford and Paris."""

    map: Annotated[float | None, Doc("mean average precision, medium")]
    map_easy: Annotated[float | None, Doc("mean average precision, easy")]
    map_easy_interval: NotRequired[_Interval]
    map_medium: Annotated[float | None, Doc("mean average precision, medium")]
    map_medium_interval: NotRequired[_Interval]
    map_hard: Annotated[float | None, Doc("mean average precision, hard")]
    map_hard_interval: NotRequired[_Interval]
    mp_easy: Annotated[dict[str, float] | None, Doc("mean precision at k = 1, 5, 10, easy")]
    mp_medium: Annotated[dict[str, float] | None, Doc("mean precision at k, medium")]
    mp_hard: Annotated[dict[str, float] | None, Doc("mean precision at k, hard")]
    n_gallery: Annotated[int, Doc("readable images of the gallery")]
    n_queries: Annotated[int, Doc("readable queries")]


class TransferResult(FeatureLine):
    """The result of `gta probe transfer` on one dataset."""

    knn: Annotated[float, Doc("top-1 accuracy of `gta probe knn`")]
    knn_interval: _Interval
    k: Annotated[int, Doc("number of neighbors")]
    linear: NotRequired[Annotated[float, Doc("top-1 accuracy of `gta probe linear`")]]
    linear_interval: NotRequired[_Interval]
    chosen: NotRequired[
        Annotated[
            dict[str, object],
            Doc("features, layer, chosen_on, solver, c, lr and heads of `gta probe linear`"),
        ]
    ]


class LayerAttention(TypedDict):
    """The attention of one block; each metric by head, means over the images."""

    layer: Annotated[int, Doc("number of the block")]
    inside: Annotated[_ByHead, Doc("fraction of the attention on patches that is on the object")]
    inside_over_area: Annotated[_ByHead, Doc("inside, divided by area")]
    entropy: Annotated[_ByHead, Doc("entropy of the row", "nats")]
    drift: Annotated[_ByHead, Doc("squared distance of the logits from the reference's")]
    kl: Annotated[_ByHead, Doc("KL divergence from the reference's attention on patches", "nats")]


class AttentionProbeMetrics(TypedDict):
    """The metrics of `gta probe attention` for one model."""

    n_images: Annotated[int, Doc("images that were measured")]
    n_inside: Annotated[int, Doc("images with an object")]
    area: Annotated[float | None, Doc("mean fraction of these images that is object")]
    grid: Annotated[list[int], Doc("patches [height, width]")]
    tokens: Annotated[int, Doc("columns of an attention row; the entropy is at most their log")]
    layers: Annotated[list[LayerAttention], Doc("one item per block")]


class AttentionResult(AttentionProbeMetrics, ProbeLine):
    """The result of `gta probe attention`."""

    masks: Annotated[str, Doc("source of the masks: the folder, data, or tokencut")]
    image_size: Annotated[list[int], Doc("input size [height, width]", "px")]


class FaithfulnessMetrics(TypedDict):
    """The insertion and deletion of one kind of map."""

    kind: Annotated[str, Doc("the kind; random and center are controls without the model")]
    n_images: Annotated[int, Doc("images that were measured")]
    insertion: Annotated[
        float,
        Doc("area under the class's probability as the first patches are added; high is good"),
    ]
    insertion_interval: _Interval
    deletion: Annotated[float, Doc("area under it as the first patches are removed; low is good")]
    deletion_interval: _Interval
    gap: Annotated[float, Doc("insertion minus deletion")]
    gap_interval: _Interval
    fractions: Annotated[list[float], Doc("of the patches, at the points of the curves")]
    insertion_curve: Annotated[list[float], Doc("mean probability with the first patches alone")]
    deletion_curve: Annotated[list[float], Doc("mean probability without the first patches")]
    against: Annotated[
        dict[str, dict[str, Comparison]],
        Doc("paired tests by other kind and metric; the difference is this kind minus the other"),
    ]


class FaithfulnessResult(FaithfulnessMetrics, ProbeLine):
    """The result of `gta probe attention --faithfulness` for one kind of map."""

    fill: Annotated[Literal["mean", "blur"], Doc("what replaces removed patches")]
    image_size: Annotated[list[int], Doc("input size [height, width]", "px")]


class VariantAccuracy(TypedDict):
    """The accuracy on one variant of the images."""

    top1: Annotated[float | None, Doc("top-1 accuracy")]
    top1_interval: _Interval
    n: Annotated[int, Doc("images")]


class BackgroundMetrics(TypedDict):
    """The metrics of `gta probe background` for one model."""

    n_test: Annotated[int, Doc("images of a variant")]
    variants: Annotated[
        dict[str, VariantAccuracy] | None, Doc("by variant; null if the classes do not match")
    ]
    bg_gap: Annotated[float | None, Doc("accuracy on mixed-same minus that on mixed-rand")]
    bg_gap_interval: _Interval
    n_pairs: Annotated[int, Doc("images of which both original and mixed-rand were shown")]
    fg_consistency: Annotated[
        float | None, Doc("fraction of the pairs with the same prediction on both variants")
    ]
    fg_consistency_interval: _Interval
    survives: Annotated[
        Literal["class", "neighbour"],
        Doc("the prediction: the classifier's class, or the nearest other image"),
    ]
    cosine: Annotated[float | None, Doc("mean cosine of the features of both variants, -1 to 1")]
    cosine_interval: _Interval


class BackgroundResult(BackgroundMetrics, ProbeLine):
    """The result of `gta probe background`."""

    left_out: Annotated[int, Doc("images without an object or a background beside it")]


class RobustResult(ProbeLine):
    """The result of `gta probe robust` on one dataset."""

    n_test: Annotated[int, Doc("images")]
    top1: Annotated[float | None, Doc("top-1 accuracy; of cue conflicts by shape")]
    top1_interval: _Interval
    shape_bias: NotRequired[
        Annotated[float | None, Doc("cue conflicts: shape predictions / those of shape or texture")]
    ]
    shape_bias_interval: NotRequired[_Interval]
    by_shape: NotRequired[
        Annotated[float | None, Doc("cue conflicts: fraction of the conflicts predicted by shape")]
    ]
    by_texture: NotRequired[
        Annotated[float | None, Doc("cue conflicts: fraction predicted by texture")]
    ]
    n_conflict: NotRequired[
        Annotated[int, Doc("cue conflicts: images whose shape and texture differ in class")]
    ]
