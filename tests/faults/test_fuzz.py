"""Changed inputs of each kind of `benchmarks/faults`, which tries thousands."""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtacli.cli import main

HARNESS = Path(__file__).parents[2] / "benchmarks" / "faults"
KINDS = (
    "images", "masks", "safetensors", "pth", "state", "toml", "csv", "cub", "tar", "run", "prerun",
    "probe", "maps", "journal", "voc", "coco", "revisited", "calibration", "features", "split",
    "labelme", "cocofile", "tables", "shards", "adapter", "hub", "transformers",
)  # fmt: skip
FEWER = {"state": 2, "split": 2, "tar": 8, "coco": 8, "cub": 8, "toml": 6, "safetensors": 6,
         "tables": 12, "adapter": 8, "hub": 12, "transformers": 6}  # fmt: skip
PLAIN = ["--device", "cpu", "--image-size", "36", "--workers", "0", "--batch-size", "8", "--quiet"]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the modules `fuzz` and `kinds`, with small runs for fixtures."""
    place = tmp_path_factory.mktemp("fixtures")
    rng = np.random.default_rng(0)
    for number in range(12):
        file = place / "photos" / f"class{number % 3}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (36, 36, 3), dtype=np.uint8)).save(file)
    (place / "images").symlink_to(place / "photos")
    data = ["--data", str(place / "photos")]
    run = ["finetune", "--model", "demo", *data, "--epochs", "2", "--lam", "0.1", *PLAIN]
    assert main([*run, "--no-linear-probe", "--out", str(place / "small")]) == 0
    (place / "run").symlink_to(place / "small")
    prerun = ["pretrain", "--recipe", "pretrain-demo", *data, "--epochs", "1", *PLAIN]
    assert main([*prerun, "--out", str(place / "prerun")]) == 0
    cut = ["--teacher", "demo", "--layer", "-2", "--tau", "0.3", "--image-size", "48", "--quiet"]
    assert main(["discover", *data, *cut, "-o", str(place / "maps")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS_FIXTURES", str(place))
        patch.syspath_prepend(str(HARNESS))
        before = {*sys.modules}
        yield importlib.import_module("fuzz"), importlib.import_module("kinds")
        for name in {*sys.modules} - before:
            if str(HARNESS) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def outcomes(harness: Any, name: str, inputs: int, folder: Path) -> Counter[tuple[str, str]]:
    fuzz, kinds = harness
    folder.mkdir()
    target = kinds.KINDS[name](folder)
    with (folder / "noise").open("w+b") as noise:
        assert fuzz.try_one(target, None, noise.fileno()) == ("accepted", "")
        found = [
            fuzz.try_one(target, Random(f"test-{name}-{number}"), noise.fileno())
            for number in range(inputs)
        ]
    return Counter(found)


def test_kinds(harness: Any) -> None:
    assert tuple(harness[1].KINDS) == KINDS


@pytest.mark.parametrize("name", KINDS)
def test_changed_inputs_are_taken_or_refused(harness: Any, name: str, tmp_path: Path) -> None:
    found = outcomes(harness, name, FEWER.get(name, 15), tmp_path / "case")
    assert {*found} <= {("accepted", ""), ("refused", "")}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_changed_inputs(harness: Any, name: str, tmp_path: Path) -> None:
    found = outcomes(harness, name, 30 if name in ("state", "split") else 300, tmp_path / "case")
    assert {*found} <= {("accepted", ""), ("refused", "")}


def test_harness_notices_what_it_looks_for(harness: Any, tmp_path: Path) -> None:
    """An exception, its name in an output, a wrong answer, noise, and a status without a line."""
    fuzz, _ = harness

    def outcome(answer: Callable[[], object], noise: int) -> str:
        target = SimpleNamespace(run=lambda rng: answer())
        return str(fuzz.try_one(target, None, noise)[0])

    def say(text: str) -> int:
        sys.stderr.write(text)
        return 2

    with (tmp_path / "noise").open("w+b") as file:
        cases = [
            (lambda: {}["x"], "unforeseen"),
            (lambda: say("error: OSError: x\n"), "unforeseen"),
            (lambda: say("error: a line\n"), "refused"),
            (lambda: say(""), "silent"),
            (lambda: "a wrong answer", "wrong"),
            (lambda: os.write(file.fileno(), b"lib: x\n") and None, "noise"),
            (lambda: None, "accepted"),
        ]
        for answer, expected in cases:
            assert outcome(answer, file.fileno()) == expected
