"""Data sets: reading, per-class sampling, decoding, geometry and batches.

Importing this package imports neither torch nor Pillow; `images`, `transforms`, `store` and
`loader` do.
"""

from gtacli.data.base import DatasetReader, ImageDataset, Record
from gtacli.data.spec import load_dataset

__all__ = ["DatasetReader", "ImageDataset", "Record", "load_dataset"]
