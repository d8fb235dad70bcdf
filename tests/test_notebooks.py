"""The notebooks in the docs run from top to bottom."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"
NAMES = ("first-steps.ipynb",)

pytestmark = pytest.mark.skipif(not NOTEBOOKS.is_dir(), reason="needs a checkout")


def cells(name: str) -> list[str]:
    content = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def test_all_are_tested_and_hold_no_output() -> None:
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == {*NAMES}
    for name in NAMES:
        content = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
        assert not any(cell.get("outputs") for cell in content["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for number, source in enumerate(cells(name)):
        module = ast.parse(source)
        exec(compile(module, f"{name}, cell {number}", "exec"), scope)
    assert (tmp_path / "sheet.png").is_file()
    assert scope["run"]["test_top1"] > 1 / 12
