"""Pages that are made from the code agree with it."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script() -> Any:
    """Run a script of docs/ and return its names."""
    return lambda name: runpy.run_path(str(ROOT / "docs" / "scripts" / name))


def test_the_tree_in_the_docs_is_the_tree(script: Any) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert script("tree.py")["tree"]() in text, "run: python docs/scripts/tree.py"


def test_every_floor_title_stands_over_a_floor(script: Any) -> None:
    names = script("tree.py")
    assert set(names["TITLES"]) <= set(names["floors"]())


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    named = re.findall(r"`([a-z_]+(?:/[a-z_]*)*(?:\.py)?)`", prose)
    paths = [name for name in named if "/" in name or name.endswith(".py")]
    assert len(paths) > 20
    missing = [
        name for name in paths if not any((r / name).exists() for r in (ROOT, ROOT / "gtacli"))
    ]
    assert not missing


def test_the_page_of_json_results_is_made_from_the_types(script: Any) -> None:
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert page == script("json_page.py")["page"](), "run: python docs/scripts/json_page.py"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("target", "tools"), [("demo", False), ("test", True), ("lint", True)])
def test_only_developers_install_their_tools(target: str, tools: bool) -> None:
    done = subprocess.run(
        ["make", "-n", "-B", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ("[dev]" in done.stdout) == tools
    assert "-e ." in done.stdout
