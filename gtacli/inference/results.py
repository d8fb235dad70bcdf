"""The JSON lines of the commands that run models on images."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from gtacli.runtime.results import Doc

_Path = Annotated[str, Doc("path of the image, as it was given")]
_Model = Annotated[str, Doc("name of the model; only with several models")]
_Box = Annotated[
    list[int] | None,
    Doc("[x0, y0, x1, y1) around the mask in the upright image; null around an empty mask", "px"),
]
_Area = Annotated[float, Doc("fraction of the image that the mask covers")]


class ImageFailure(TypedDict):
    """An image that could not be processed; any command."""

    image: _Path
    error: Annotated[str, Doc("the reason, in one line")]


ClassProbability = TypedDict(
    "ClassProbability",
    {
        "class": Annotated[str, Doc("name of the class; its number where it has no name")],
        "probability": Annotated[
            float,
            Doc("softmax of the logits, 0 to 1; sigmoid of its own for any number of labels"),
        ],
    },
)
"""A class and its probability."""


class Prediction(TypedDict):
    """The classes of one image by `gta predict`."""

    image: _Path
    top: Annotated[list[ClassProbability], Doc("most probable classes, the first one first")]
    labels: NotRequired[
        Annotated[
            list[ClassProbability],
            Doc(
                "all classes with a probability above `threshold`, the most probable first; only "
                "of a model for any number of labels"
            ),
        ]
    ]
    entropy: Annotated[
        float,
        Doc(
            "of the probabilities of all classes; of any number of labels the sum over the classes",
            "nats",
        ),
    ]
    unsure: NotRequired[
        Annotated[bool, Doc("whether the highest probability is below `unsure`; only with it")]
    ]


class SegmentObject(TypedDict):
    """One object of an image."""

    mask: Annotated[str | None, Doc("file of the mask; null in a dry run and in other formats")]
    box: _Box
    area: _Area
    confidence: Annotated[float, Doc("how compact and central the mask's patches are, 0 to 1")]


class Segmentation(SegmentObject):
    """The objects of one image by `gta segment`; mask, box and area are the main object's."""

    model: NotRequired[_Model]
    image: _Path
    objects: NotRequired[
        Annotated[list[SegmentObject], Doc("all objects, of a back-end that finds several")]
    ]
    overlay: NotRequired[
        Annotated[str | None, Doc("file of the image with its masks; null in a dry run")]
    ]
    files: NotRequired[
        Annotated[list[str], Doc("files of the image's annotations; of the formats voc and yolo")]
    ]
    iou: NotRequired[Annotated[float, Doc("IoU of the main mask with the ground truth, 0 to 1")]]
    located: NotRequired[
        Annotated[bool, Doc("whether any box has an IoU of at least 0.5 with a true one")]
    ]


class SegmentSummary(TypedDict):
    """The totals of `gta segment` by one model; the means are there with ground truth."""

    model: NotRequired[_Model]
    images: Annotated[int, Doc("images that were processed")]
    failed: Annotated[int, Doc("images that could not be processed")]
    mean_iou: NotRequired[Annotated[float | None, Doc("mean IoU of the masks, 0 to 1")]]
    jaccard: NotRequired[
        Annotated[float | None, Doc("mean over images of the best head's Jaccard index, 0 to 1")]
    ]
    corloc: NotRequired[Annotated[float | None, Doc("fraction of images with a located object")]]
    max_f_beta: NotRequired[
        Annotated[float | None, Doc("maximum over thresholds of the mean F measure, 0 to 1")]
    ]
    accuracy: NotRequired[Annotated[float | None, Doc("mean fraction of correct pixels")]]
    images_per_second: Annotated[float, Doc("throughput", "1/s")]


class SegmentTotals(TypedDict):
    """The last lines of `gta segment`, one per model."""

    summary: SegmentSummary


class SegmentSheet(TypedDict):
    """The line of `gta segment` about its sheet, with several models."""

    sheet: Annotated[str, Doc("file with the first images side by side")]


class AttentionMapFile(TypedDict):
    """One attention map of one image by `gta attention-map`."""

    image: _Path
    model: NotRequired[_Model]
    output: Annotated[str | None, Doc("file of the map; null in a dry run")]
    layer: Annotated[int, Doc("number of the block, from 0")]
    heads: Annotated[
        str | int | list[int] | None,
        Doc("max, mean, all, or numbers of heads; null for a kind without heads"),
    ]
    grid: Annotated[list[int], Doc("[height, width] of the map", "patches")]
    source_size: Annotated[list[int], Doc("[height, width] of the upright image", "px")]


class DiscoverSummary(TypedDict):
    """The result of `gta discover`."""

    cache: Annotated[str, Doc("folder of the maps")]
    images: Annotated[int, Doc("images that were processed, failed ones included")]
    new: Annotated[int, Doc("maps that were computed; the others were cached")]
    failed: Annotated[int, Doc("images that have no map")]
    bytes: Annotated[int, Doc("size of the cache", "B")]
    images_per_second: Annotated[float, Doc("throughput", "1/s")]


class MapVerification(TypedDict):
    """The result of `gta maps verify`."""

    cache: Annotated[str, Doc("folder of the maps")]
    ok: Annotated[bool, Doc("whether nothing is damaged, unfinished or missing")]
    maps: Annotated[int, Doc("maps in the cache")]
    images: Annotated[int, Doc("images that were looked up")]
    damaged: Annotated[list[str], Doc("files that do not match their checksum")]
    unfinished: Annotated[list[str], Doc("journals of running or interrupted commands")]
    missing: Annotated[list[str], Doc("images without a map")]


class MapDrawing(TypedDict):
    """One map that `gta maps show` has drawn."""

    image: _Path
    output: Annotated[str, Doc("file of the map over its image")]
    grid: Annotated[list[int], Doc("[height, width] of the map", "patches")]


class EmbedSummary(TypedDict):
    """The result of `gta embed`."""

    file: Annotated[str, Doc("the file")]
    format: Annotated[str, Doc("parquet, npz, csv or safetensors")]
    images: Annotated[int, Doc("images in the file")]
    failed: Annotated[int, Doc("images that cannot be read")]
    dimensions: Annotated[int, Doc("numbers of an embedding")]
    bytes: Annotated[int, Doc("size of the file", "bytes")]
    images_per_second: Annotated[float, Doc("speed, loading of the model not counted")]
