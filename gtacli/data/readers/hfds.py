"""Family `hfds`: datasets of Hugging Face with the spec `hfds/NAME`, as in timm.

NAME is a dataset of the hub (downloaded by `datasets` into its own cache; with HF_HUB_OFFLINE=1, or
if the hub cannot be reached, only read from there), or a local folder: written by `save_to_disk`,
or with parquet files or image folders that `datasets` reads. The image column is the only one of
that type, else `image` or `img`; the label column is the only ClassLabel, else `label`, `labels` or
`fine_label`, with `multi_label` a column of lists. A split without labels (all -1) is omitted. Rows
are memory-mapped, and images are read when needed.

timm's ReaderHfds needs the names of split and columns, and cannot read the result of `save_to_disk`
(`load_dataset` treats it as loose files), so the tables are read directly.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from gtacli.data.base import NO_CLASS, NO_LABEL, SPLIT_NAMES, DatasetFamily, ImageDataset, Record
from gtacli.data.readers.table import sorted_labels
from gtacli.errors import GtaError, reason_of_library
from gtacli.images.find import read_file_state
from gtacli.images.packed import PackedImage
from gtacli.runtime.fetching import require_fetching
from gtacli.runtime.paths import user_path
from gtacli.runtime.reachable import why_hub_unreachable
from gtacli.runtime.regular import open_regular

log = logging.getLogger(__name__)


class HuggingFace(DatasetFamily):
    """The reader of Hugging Face datasets.

    Args:
        multi_label: whether an image has any number of labels: those of a column of lists.
    """

    help = "a Hugging Face dataset: hfds/NAME of the hub, or hfds/FOLDER"
    usage = "hfds/NAME"

    def __init__(self, multi_label: bool = False) -> None:
        self.multi_label = multi_label

    def open(self, rest: str) -> ImageDataset:
        return self._open(rest, self._read)

    def images(self, rest: str, every_split: bool = False) -> ImageDataset:
        """Read the image column alone, of the training split or of all."""

        def read(datasets: Any, name: str, spec: str) -> ImageDataset:
            tables = _known_tables(_tables(datasets, name), spec)
            splits = {}
            for word, split in tables.words.items():
                if split == "train" or every_split:
                    rows = tables.images(datasets, word)
                    splits[split] = tuple(
                        Record(f"{split}/{i}", 0, TableImage(rows, i))
                        for i in range(len(rows.table))
                    )
            return ImageDataset(spec, NO_CLASS, splits)

        return self._open(rest, read)

    def _open(self, rest: str, read: Callable[[Any, str, str], ImageDataset]) -> ImageDataset:
        try:
            import datasets
        except ImportError as error:
            raise GtaError("hfds/ needs the package datasets: pip install 'gtacli[hf]'") from error
        local = user_path(rest)
        name = str(local) if os.path.exists(local) else rest
        spec = f"hfds/{rest}"
        disabled = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            return read(datasets, name, spec)
        except GtaError:
            raise
        except Exception as error:  # of the hub, the builder or the file
            raise GtaError(f"{spec} cannot be loaded ({reason_of_library(error)})") from error
        finally:
            if not disabled:
                datasets.enable_progress_bars()

    def _read(self, datasets: Any, name: str, spec: str) -> ImageDataset:
        tables = _known_tables(_tables(datasets, name), spec)
        label = self._label_column(datasets, spec, tables.features)
        found: dict[str, tuple[ImageTable, list[Any]]] = {}
        for word, split in tables.words.items():
            rows = tables.images(datasets, word)
            values = list(tables.by_word[word][label])
            if self.multi_label:
                found[split] = rows, [[one for one in own or () if one != -1] for own in values]
                continue
            missing = [i for i, value in enumerate(values) if value is None or value == -1]
            if missing and len(missing) == len(values):
                log.warning("%s: split '%s' has no labels and is omitted", spec, word)
            elif missing:
                raise GtaError(f"{spec}: row {missing[0]} of split '{word}' has no label")
            else:
                found[split] = rows, values
        columns = [values for _, values in found.values()]
        feature = tables.features[label]
        if self.multi_label:
            columns = [[one for own in values for one in own] for values in columns]
            feature = feature.feature
        index, classes = _classes(columns, feature)
        splits = {
            split: tuple(
                self._record(f"{split}/{i}", value, index, TableImage(rows, i))
                for i, value in enumerate(values)
            )
            for split, (rows, values) in found.items()
        }
        return ImageDataset(spec, classes, splits)

    def _label_column(self, datasets: Any, spec: str, features: Mapping[str, Any]) -> str:
        lists = [name for name, one in features.items() if isinstance(one, datasets.List)]
        if self.multi_label:
            return _column(spec, features, datasets.List, ("labels", "label", "tags", "objects"))
        label = _column(spec, features, datasets.ClassLabel, ("label", "labels", "fine_label"))
        if label in lists:
            text = f"{spec}: `{label}` has any number of labels; read them with `multi_label`"
            raise GtaError(text, option="data")
        return label

    def _record(self, key: str, value: Any, index: Mapping[Any, int], image: PackedImage) -> Record:
        if not self.multi_label:
            return Record(key, index[value], image)
        labels = tuple(sorted({index[one] for one in value}))
        return Record(key, NO_LABEL, image, labels=labels)


@dataclass(frozen=True)
class SplitTables:
    """The tables of a dataset.

    Attributes:
        spec: of the dataset.
        by_word: the tables by their own names for the splits.
        words: split by name.
    """

    spec: str
    by_word: Mapping[str, Any]
    words: Mapping[str, str]

    @property
    def features(self) -> Mapping[str, Any]:
        """The types of the columns by name."""
        features: Mapping[str, Any] = self.by_word[next(iter(self.words))].features
        return features

    def images(self, datasets: Any, word: str) -> "ImageTable":
        """Return the column of encoded images of a split."""
        column = _column(self.spec, self.features, datasets.Image, ("image", "img"))
        # That column only; otherwise all images of a row would be decoded, even masks.
        table = self.by_word[word].select_columns([column])
        table = table.cast_column(column, datasets.Image(decode=False))
        return ImageTable(table, column, word, self.spec)


class ImageTable:
    """The table of a split, with encoded images in `column`."""

    def __init__(self, table: Any, column: str, split: str, spec: str) -> None:
        self.table = table
        self.column = column
        self.name = f"{spec}/{split}"

    @cached_property
    def sizes(self) -> list[int]:
        """Sizes of the images in bytes, from Arrow's offsets."""
        return list(self._sizes())

    @cached_property
    def state(self) -> str | None:
        """The state of the table's files; None if images are in memory or in files of their own."""
        files = self.table.cache_files
        chunks = self.table.data.column(self.column).chunks
        if not files or any(chunk.field("bytes").null_count for chunk in chunks):
            return None
        states = (read_file_state(Path(file["filename"])) for file in files)
        # The fingerprint identifies the rows of the files and their order.
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
class TableImage(PackedImage):
    """An image in a row of a table."""

    table: ImageTable
    index: int

    def open(self) -> BinaryIO:
        image = self.table.table[self.index][self.table.column]
        data = image["bytes"]
        return open_regular(Path(image["path"])) if data is None else BytesIO(data)

    def stamp(self) -> int:
        return self.table.sizes[self.index]

    def state(self) -> str | None:
        return None if self.table.state is None else f"{self.table.state}\0{self.index}"

    def __str__(self) -> str:
        return f"{self.table.name}, row {self.index}"


def _tables(datasets: Any, name: str) -> Mapping[str, Any]:
    """Return the splits by name; a single saved table is the train split."""
    folder = Path(name)
    if not any(os.path.isfile(folder / mark) for mark in ("dataset_dict.json", "state.json")):
        require_fetching(f"hfds/{name}")  # a local folder, too: its README.md may name URLs
        reason = None if os.path.exists(folder) else why_hub_unreachable()
        if reason is not None:
            return _cached_tables(datasets, name, reason)
        loaded: Mapping[str, Any] = datasets.load_dataset(name)
        return loaded
    saved = datasets.load_from_disk(name)
    return saved if isinstance(saved, dict) else {"train": saved}


def _known_tables(tables: Mapping[str, Any], spec: str) -> SplitTables:
    """Return the tables that are training, validation or test images."""
    words = {word: SPLIT_NAMES[word.lower()] for word in tables if word.lower() in SPLIT_NAMES}
    if not words:
        raise GtaError(f"{spec} has no train, val or test split (it has {', '.join(tables)})")
    for word in set(tables) - set(words):
        log.info("%s: split '%s' is not train, val or test: it is not read", spec, word)
    return SplitTables(spec, tables, words)


def _cached_tables(datasets: Any, name: str, reason: str) -> Mapping[str, Any]:
    """Return the splits of a dataset of the hub from its cache, without a request to the hub."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        loaded: Mapping[str, Any] = datasets.load_dataset(name)
    except (OSError, ValueError) as error:
        raise GtaError(
            f"hfds/{name} is not in the cache, and {reason}. Download it where there is a network, "
            f"and copy its cache to {datasets.config.HF_DATASETS_CACHE} here, or name its folder: "
            "hfds/FOLDER"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
    return loaded


def _column(spec: str, features: Mapping[str, Any], kind: type, names: Sequence[str]) -> str:
    """Return the only column of `kind`, else the first of `names`."""
    fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(fitting) == 1:
        return fitting[0]
    for name in names:
        if name in features and (not fitting or name in fitting):
            return name
    what = "image" if "image" in names else "label"
    raise GtaError(
        f"{spec}: it is unclear which column is the {what}; it has {', '.join(features)}"
    )


def _classes(splits: Sequence[list[Any]], feature: Any) -> tuple[dict[Any, int], tuple[str, ...]]:
    """Return the label of every value, and the names of the classes."""
    names = getattr(feature, "names", None)
    if names is not None:
        return {i: i for i in range(len(names))}, tuple(names)
    by_name = {str(value): value for values in splits for value in values}
    classes = sorted_labels(set(by_name))
    return {by_name[name]: label for label, name in enumerate(classes)}, classes
