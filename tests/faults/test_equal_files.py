"""Equal commands write equal files, byte for byte, but for what the clock measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gtacli.cli import main

CLOCK = {"seconds", "cpu_seconds", "images_per_second", "peak_memory_mb"}
COMMANDS = {
    "finetune": ["finetune", "--epochs", "1", "--batch-size", "8", "--workers", "0"],
    "pretrain": [
        *("pretrain", "--epochs", "1", "--batch-size", "8", "--workers", "0"),
        *("--decoder-dim", "16", "--decoder-depth", "1", "--decoder-heads", "2"),
    ],
    "knn": ["probe", "knn", "--k", "3"],
    "discover": ["discover", "--tau", "0.3", "--layer", "-1"],
    "segment": ["segment", "--backend", "dino", "--overlay"],
    "attention-map": ["attention-map"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "pretrain")) for n in COMMANDS]
)
def test_equal_commands_write_equal_files(
    name: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    model = ["--teacher" if name == "discover" else "--model", str(tiny_model)]
    images = str(tiny_data / "test")
    data = [images] if name in ("segment", "attention-map") else ["--data", str(tiny_data)]
    words = [*COMMANDS[name], *data, *model, "--device", "cpu", "-q", "-o", str(tmp_path / "out")]
    found = []
    for kept in ("first", "second"):
        assert main(words) == 0
        found.append(contents(tmp_path / "out"))
        (tmp_path / "out").rename(tmp_path / kept)
    assert found[0].keys() == found[1].keys()
    assert [file for file in found[0] if found[0][file] != found[1][file]] == []
    assert any(isinstance(content, bytes) for content in found[0].values())


def contents(folder: Path) -> dict[str, Any]:
    """Return the bytes of every file; of JSON all values but the clock's and the command line."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.suffix in (".json", ".jsonl") and path.name != "manifest.json":
            found[name] = [without_clock(json.loads(x)) for x in documents(path)]
        elif path.is_file() and path.suffix != ".pt":
            found[name] = path.read_bytes()
    return found


def documents(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        left = value.keys() - CLOCK - {"argv"}
        return {key: without_clock(value[key]) for key in sorted(left)}
    return [without_clock(each) for each in value] if isinstance(value, list) else value
