"""Files of embeddings, read by the libraries of their formats."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from gtacli.errors import RunError
from gtacli.inference.embedding_files import EmbeddingFile, write_embeddings
from gtacli.inference.embeddings import EmbeddedImage

TEXTS = ["a.png", "größe/ü 1.png", 'b,"c".png', "=1+1.png", "d\udce9.png"]


def images(count: int) -> list[EmbeddedImage]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        values = (rng.standard_normal(7) * 10.0 ** rng.integers(-30, 30)).astype(np.float32)
        found.append(EmbeddedImage(f"{i}{TEXTS[i % 5]}", TEXTS[-i % 4], "train", values))
    return found


def write(path: Path, kind: str, given: list[EmbeddedImage]) -> None:
    def fill(file: EmbeddingFile) -> int:
        for image in given:
            file.add(image)
        return len(given)

    assert write_embeddings(path, kind, fill) == len(given)


def read(path: Path, kind: str) -> tuple[Any, list[str], list[str], list[str]]:
    """Return embeddings, paths, labels and splits."""
    if kind == "csv":
        with path.open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        assert [int(row[0]) for row in rows] == [*range(len(rows))]
        numbers = np.array([row[4:] for row in rows], np.float32)
        return numbers, *([row[i] for row in rows] for i in (1, 2, 3))  # type: ignore[return-value]
    if kind == "parquet":
        table = pq.read_table(path).to_pydict()
        assert table["id"] == [*range(len(table["id"]))]
        numbers = np.array(table["embedding"], np.float32)
        return numbers, table["path"], table["label"], table["split"]
    if kind == "npz":
        arrays: Any = np.load(path)  # without pickle
        return arrays["embeddings"], *(arrays[k].tolist() for k in ("paths", "labels", "splits"))  # type: ignore[return-value]
    arrays = load_file(path)
    texts = (bytes(arrays[k]).decode().splitlines() for k in ("paths", "labels", "splits"))
    return arrays["embeddings"], *texts  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "safetensors"])
@pytest.mark.parametrize("count", [1, 5, 2050])  # below, and above the rows of a block
def test_numbers_and_names_come_back(tmp_path: Path, kind: str, count: int) -> None:
    given, path = images(count), tmp_path / "e"
    write(path, kind, given)
    numbers, paths, labels, splits = read(path, kind)
    assert numbers.dtype == np.float32
    assert np.array_equal(numbers, np.stack([image.values for image in given]))
    formula = "'" if kind == "csv" else ""
    assert paths == [image.path.replace("\udce9", "\\xe9") for image in given]
    assert labels == [
        formula + image.label if image.label.startswith("=") else image.label for image in given
    ]
    assert splits == ["train"] * count
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "safetensors"])
def test_equal_embeddings_give_equal_files_and_none_gives_an_empty_one(
    tmp_path: Path, kind: str
) -> None:
    for name in "ab":
        write(tmp_path / name, kind, images(3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write(tmp_path / "c", kind, [])
    numbers, paths, _, _ = read(tmp_path / "c", kind)
    assert len(numbers) == len(paths) == 0


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def fill(file: EmbeddingFile) -> int:
        file.add(images(1)[0])
        raise RunError("the features are not finite")

    for kind in ("csv", "parquet", "npz", "safetensors"):
        with pytest.raises(RunError):
            write_embeddings(tmp_path / "e", kind, fill)
    assert not [*tmp_path.iterdir()]
