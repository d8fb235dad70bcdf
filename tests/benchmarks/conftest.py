"""Modules of the folder `benchmarks`, which is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.setitem(sys.modules, name, module)  # dataclasses look there
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def interleaved() -> ModuleType:
    return load("interleaved")


@pytest.fixture(scope="session")
def bench() -> ModuleType:
    return load("bench")


@pytest.fixture(scope="session")
def scaling() -> ModuleType:
    return load("scaling")


@pytest.fixture(scope="session")
def gpu_table() -> ModuleType:
    return load("gpu_table")
