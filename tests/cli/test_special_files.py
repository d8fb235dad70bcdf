"""Tests that no command waits for a FIFO that has an image's name, or a run's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no FIFOs")
_SCRIPT = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from gtacli.cli import main
for words in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as log:
        status = main(words)
    print(json.dumps([status, log.getvalue()]), flush=True)
"""


def run_all(commands: Sequence[Sequence[object]]) -> list[tuple[int, str]]:
    """Run commands in one other process, which may not take longer than two minutes."""
    words = json.dumps([[*map(str, command)] for command in commands])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, words],
        capture_output=True, text=True, timeout=120, check=True, env=environment,
    )  # fmt: skip
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_fifo_among_images_is_named_and_skipped(
    tiny_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    photos = tiny_data / "test" / "red"
    for split in ("train", "test"):
        os.mkfifo(tiny_data / split / "red" / "x.png")
    model, out = ("-m", tiny_model, "--device", "cpu"), tmp_path / "out"
    streams = run_all([
        ("predict", photos, *model),
        ("attention-map", photos, *model, "-o", out / "maps"),
        ("segment", photos, *model, "-o", out / "masks"),
        ("discover", photos, "--teacher", tiny_model, "--device", "cpu", "-o", out / "discover"),
    ])  # fmt: skip
    for status, log in streams:
        assert status == 1, log
        assert f"cannot read image {photos}/x.png: is a FIFO, not a file" in log
    datasets = run_all([
        ("data", "check", tiny_data),
        ("probe", "knn", *model, "--data", tiny_data, "-o", out / "knn"),
        ("finetune", *model, "--data", tiny_data, "-o", out / "run", "--epochs", 1),
        ("report", out / "run", "-o", out / "r.html"),
    ])  # fmt: skip
    assert [status for status, _ in datasets] == [1, 1, 0, 0], datasets
    for _, log in datasets[1:3]:
        assert f"cannot read image {tiny_data}/train/red/x.png: is a FIFO, not a file" in log


@pytest.mark.slow
def test_fifo_in_place_of_another_file_is_named(
    tiny_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "run" / "run.json"
    fifo.parent.mkdir()
    os.mkfifo(fifo)
    for name in ("w.safetensors", "w.pth", "r.toml", "t.csv", "g.pkl"):
        (tmp_path / name).symlink_to(fifo)
    data = ("--data", tiny_data, "-o", tmp_path / "out")
    for status, log in run_all([
        ("finetune", "-m", f"vit_tiny_patch16_224@{tmp_path}/w.safetensors", *data),
        ("finetune", "-m", f"vit_tiny_patch16_224@{tmp_path}/w.pth", *data),
        ("finetune", "--recipe", tmp_path / "r.toml", *data),
        ("finetune", "-m", tiny_model, "--data", f"csv:{tmp_path}/t.csv", "-o", tmp_path / "out"),
        ("finetune", "--resume", tmp_path / "run"),
        ("report", tmp_path / "run", "-o", tmp_path / "r.html"),
    ]):  # fmt: skip
        assert status == 2, log
        assert len(log.splitlines()) == 1
        assert str(tmp_path) in log
