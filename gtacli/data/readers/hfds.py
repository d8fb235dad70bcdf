"""Family `hfds`: data sets of Hugging Face, as `--data hfds/NAME`; the spec is timm's.

NAME is a set of the hub (fetched by `datasets` into its own cache; with HF_HUB_OFFLINE=1 only what
lies there), or a local folder: one written by `save_to_disk`, or parquet files or image folders as
`datasets` reads them. The image column is the only one of that type, else `image` or `img`; the
label column the only ClassLabel, else `label`, `labels` or `fine_label`. A part whose rows all
lack a label (-1) is left out. Rows stay where they are, memory-mapped; an image is read when it is
asked for. timm's ReaderHfds has to be told part and columns, and cannot read what `save_to_disk`
wrote (`load_dataset` mistakes it for loose files), so the tables are asked directly.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from gtacli.data.base import SPLIT_NAMES, DatasetFamily, ImageDataset, Record
from gtacli.data.readers.table import sorted_labels
from gtacli.errors import GtaError
from gtacli.images.find import read_file_state
from gtacli.images.packed import PackedImage

log = logging.getLogger(__name__)


class HuggingFace(DatasetFamily):
    help = "a Hugging Face data set: hfds/NAME of the hub, or hfds/FOLDER"
    usage = "hfds/NAME"

    def open(self, rest: str) -> ImageDataset:
        try:
            import datasets
        except ImportError as error:
            raise GtaError("hfds/ needs the package datasets: pip install 'gtacli[hf]'") from error
        local = Path(rest).expanduser()
        name = str(local) if local.exists() else rest
        spec = f"hfds/{rest}"
        shown = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            return self._read(datasets, name, spec)
        except GtaError:
            raise
        except Exception as error:  # the hub's, the builder's or the file's
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise GtaError(f"{spec} cannot be loaded ({what})") from error
        finally:
            if not shown:
                datasets.enable_progress_bars()

    def _read(self, datasets: Any, name: str, spec: str) -> ImageDataset:
        tables = _tables(datasets, name)
        words = {word: SPLIT_NAMES[word.lower()] for word in tables if word.lower() in SPLIT_NAMES}
        if not words:
            raise GtaError(f"{spec} has no train, val or test part (it has {', '.join(tables)})")
        for word in set(tables) - set(words):
            log.info("%s: part '%s' is not train, val or test: not read", spec, word)
        features = tables[next(iter(words))].features
        image = _column(spec, features, datasets.Image, ("image", "img"))
        label = _column(spec, features, datasets.ClassLabel, ("label", "labels", "fine_label"))
        found: dict[str, tuple[Rows, list[Any]]] = {}
        for word, split in words.items():
            # The image alone, encoded: else every image of a row would be decoded, a mask's too.
            table = tables[word].select_columns([image, label])
            rows = Rows(table.cast_column(image, datasets.Image(decode=False)), image, word, spec)
            values = list(table[label])
            missing = [i for i, value in enumerate(values) if value is None or value == -1]
            if missing and len(missing) == len(values):
                log.warning("%s: part '%s' has no labels: left out", spec, word)
            elif missing:
                raise GtaError(f"{spec}: row {missing[0]} of part '{word}' has no label")
            else:
                found[split] = rows, values
        index, classes = _classes([values for _, values in found.values()], features[label])
        splits = {
            split: tuple(
                Record(f"{split}/{i}", index[value], Row(rows, i)) for i, value in enumerate(values)
            )
            for split, (rows, values) in found.items()
        }
        return ImageDataset(spec, classes, splits)


class Rows:
    """A part of a set: its table, with undecoded images in `column`."""

    def __init__(self, table: Any, column: str, part: str, spec: str) -> None:
        self.table = table
        self.column = column
        self.name = f"{spec}/{part}"

    @cached_property
    def sizes(self) -> list[int]:
        """In bytes, from Arrow's offsets: no image is read."""
        return list(self._sizes())

    @cached_property
    def state(self) -> str | None:
        """Of the files that the images lie in; None where they lie in memory, or have files of
        their own, which may change while these stay."""
        files = self.table.cache_files
        chunks = self.table.data.column(self.column).chunks
        if not files or any(chunk.field("bytes").null_count for chunk in chunks):
            return None
        states = (read_file_state(Path(file["filename"])) for file in files)
        # The fingerprint says which rows of the files the table has, in which order.
        return "\0".join((self.table._fingerprint, *states))

    def _sizes(self) -> Iterator[int]:
        from pyarrow import compute

        for batch in self.table.with_format("arrow").iter(1000):
            images = batch[self.column]
            paths = compute.struct_field(images, "path").to_pylist()
            lengths = compute.binary_length(compute.struct_field(images, "bytes"))
            for length, path in zip(lengths.to_pylist(), paths, strict=True):
                yield Path(path).stat().st_size if length is None else length


@dataclass(frozen=True, slots=True, eq=False)
class Row(PackedImage):
    rows: Rows
    index: int

    def open(self) -> BinaryIO:
        image = self.rows.table[self.index][self.rows.column]
        return Path(image["path"]).open("rb") if image["bytes"] is None else BytesIO(image["bytes"])

    def stamp(self) -> int:
        return self.rows.sizes[self.index]

    def state(self) -> str | None:
        return None if self.rows.state is None else f"{self.rows.state}\0{self.index}"

    def __str__(self) -> str:
        return f"{self.rows.name}, row {self.index}"


def _tables(datasets: Any, name: str) -> Mapping[str, Any]:
    """The parts by their names; a single saved table is all training."""
    folder = Path(name)
    if not any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        loaded: Mapping[str, Any] = datasets.load_dataset(name)
        return loaded
    saved = datasets.load_from_disk(name)
    return saved if isinstance(saved, dict) else {"train": saved}


def _column(spec: str, features: Mapping[str, Any], kind: type, names: Sequence[str]) -> str:
    """The only column of `kind`, else the first of `names`."""
    fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(fitting) == 1:
        return fitting[0]
    for name in names:
        if name in features and (not fitting or name in fitting):
            return name
    what = "image" if "image" in names else "label"
    raise GtaError(f"{spec}: which column is the {what}? It has {', '.join(features)}")


def _classes(parts: Sequence[list[Any]], feature: Any) -> tuple[dict[Any, int], tuple[str, ...]]:
    """Label of every value, and the classes' names."""
    names = getattr(feature, "names", None)
    if names is not None:
        return {i: i for i in range(len(names))}, tuple(names)
    by_name = {str(value): value for values in parts for value in values}
    classes = sorted_labels(set(by_name))
    return {by_name[name]: label for label, name in enumerate(classes)}, classes
