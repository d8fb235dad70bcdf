"""Two runs from one source, on images of which some are held out of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from gtacli.cli import main
from tests.conftest import write_tiny_data, write_tiny_model


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their folder: run0, run1, tiny-data, tiny-model."""
    path = tmp_path_factory.mktemp("trained")
    data, model = write_tiny_data(path), write_tiny_model(path)
    words = ["finetune", "--data", str(data), "--model", str(model), "--epochs", "1", "--workers",
             "0", "--batch-size", "8", "--device", "cpu", "--lam", "0", "-q", "--lr", "1e-3",
             "--no-linear-probe", "--no-drift", "--hold-out", "40", "--seed", "0"]  # fmt: skip
    for n in "01":
        other = ["--out", str(path / f"run{n}"), "--label-smoothing", f"0.{n}"]
        assert main([*words, *other]) == 0
    return path
