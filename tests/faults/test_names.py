"""The part `names` of `benchmarks/faults`, in process: odd names and what is no regular file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtacli.cli import main

HARNESS = Path(__file__).parents[2] / "benchmarks" / "faults"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness needs Linux")


@pytest.fixture(scope="module")
def names() -> Iterator[Any]:
    """Return the module `names`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HARNESS))
        before = {*sys.modules}
        yield importlib.import_module("names")
        for name in {*sys.modules} - before:
            if str(HARNESS) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    rng = np.random.default_rng(0)
    files = [tmp_path_factory.mktemp("source") / f"{number}.png" for number in range(6)]
    for file in files:
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(file)
    return files


@pytest.mark.parametrize("kind", ["names", "fifo", "zero", "dangling", "self", "folder", "socket"])
def test_attention_maps_of_odd_files(
    names: Any, source: list[Path], tiny_model: Path, tmp_path: Path, kind: str, capfd: Any
) -> None:
    if kind == "names":
        wanted = names.make_names(tmp_path / "in", source)
    else:
        names.make_special(tmp_path / "in", source, names.KINDS[kind])
        wanted = 2 * names.EACH
    words = ["attention-map", tmp_path / "in", "--model", tiny_model, "-o", tmp_path / "o"]
    status = main([*map(str, words), "--json"])
    out, err = capfd.readouterr()
    assert names.faults_of({"rc": status, "out": out, "err": err}, wanted, kind) == []
    assert status == int(kind in ("fifo", "zero", "dangling", "self", "socket"))


def test_the_part_notices_what_it_looks_for(names: Any) -> None:
    ended = {"rc": 2, "out": '{"image": "a"}\n{"image": "b", "error": "no"}', "err": "error: x"}
    assert names.faults_of(ended, 1, "names") == []
    for key, value in {"rc": 3, "out": "", "err": "error: ValueError"}.items():
        assert len(names.faults_of({**ended, key: value}, 1, "names")) == 1, key
    assert names.faults_of({**ended, "err": "error: \x1b[31m"}, 1, "names")
