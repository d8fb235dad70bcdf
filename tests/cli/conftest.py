"""Running the command line as a user does, and in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
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
