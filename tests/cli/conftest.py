"""Running the command line as a user does, and in this process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gtacli.cli import main


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """stdout as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Gta = Callable[..., Result]


@pytest.fixture
def gta(capsys: pytest.CaptureFixture[str]) -> Gta:
    """`gta("models", "list")` in this process."""

    def run(*words: str) -> Result:
        capsys.readouterr()
        status = main(words)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command sets up the process's logging."""
    root, own = logging.getLogger(), logging.getLogger("gtacli")
    before = (root.handlers[:], root.level, own.level)
    yield
    root.handlers[:], level, own_level = before
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(False)
