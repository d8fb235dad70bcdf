"""What is fuzzed: kinds of files, each with the reader that meets it."""

from __future__ import annotations

from kinds.annotations import CocoFile, LabelMe
from kinds.base import Kind
from kinds.caches import Calibration, Features, Journal, MapCache
from kinds.datasets import Coco, CsvTable, Cub, Revisited, Tables, Tar, VocXml
from kinds.folders import PreRunFolder, Probe, RunFolder, Split, Toml
from kinds.hub import Adapter, HubFolder, SavePretrained, Shards
from kinds.pictures import Images, Masks
from kinds.weights import Pth, Safetensors, State

KINDS: dict[str, type[Kind]] = {
    "images": Images,
    "masks": Masks,
    "safetensors": Safetensors,
    "pth": Pth,
    "state": State,
    "toml": Toml,
    "csv": CsvTable,
    "cub": Cub,
    "tar": Tar,
    "run": RunFolder,
    "prerun": PreRunFolder,
    "probe": Probe,
    "maps": MapCache,
    "journal": Journal,
    "voc": VocXml,
    "coco": Coco,
    "revisited": Revisited,
    "calibration": Calibration,
    "features": Features,
    "split": Split,
    "labelme": LabelMe,
    "cocofile": CocoFile,
    "tables": Tables,
    "shards": Shards,
    "adapter": Adapter,
    "hub": HubFolder,
    "transformers": SavePretrained,
}
