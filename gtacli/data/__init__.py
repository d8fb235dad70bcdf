"""Datasets: readers, per-class sampling, caching, augmentation and batches.

Importing this package imports neither torch nor Pillow; `store`, `loader` and `augment` do.
"""

from gtacli.data.base import DatasetReader, ImageDataset, Record
from gtacli.data.spec import load_dataset

__all__ = ["DatasetReader", "ImageDataset", "Record", "load_dataset"]
