"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "gtacli").rglob("*.py"))
LONGEST = 80
FRAGMENT = re.compile(r"(What|How|Of|Whether|Where|Who|Or|From|The same|With|Without|As)\b")


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def documented(tree: ast.Module) -> Iterator[tuple[str, str]]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield every string but docstrings."""
    statements = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    docstrings = set(map(id, statements))
    for node in ast.walk(tree):
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if text and id(node) not in docstrings:
            yield node


def test_functions_are_short() -> None:
    long = [
        (file.name, node.name)
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST
    ]
    assert not long


def test_docstrings_begin_with_a_sentence() -> None:
    fragments = [
        f"{file.relative_to(ROOT)}: {name}: {text.splitlines()[0]}"
        for file in FILES
        for name, text in documented(parsed(file))
        if FRAGMENT.match(text)
    ]
    assert not fragments


def test_only_the_command_line_knows_how_a_flag_is_written() -> None:
    flags = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for file in FILES
        if "cli" not in file.relative_to(ROOT / "gtacli").parts
        for node in texts(parsed(file))
        if re.search(r"(?<![\w-])--[a-z]", node.value)
    ]
    assert not flags


def test_a_class_name_has_one_meaning() -> None:
    homes = defaultdict(list)
    for file in FILES:
        for node in parsed(file).body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(file.relative_to(ROOT).as_posix())
    assert not {name: files for name, files in homes.items() if len(files) > 1}


@pytest.mark.parametrize("word", ["colour", "neighbour", "regulariser", "optimiser", "normalise"])
def test_the_spelling_is_american(word: str) -> None:
    pages = [*FILES, ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    kept = re.compile(r'(["`])neighbour\1')  # a value in JSON that scripts may know
    texts = {p.name: kept.sub("", p.read_text(encoding="utf-8").lower()) for p in pages}
    found = [name for name, text in texts.items() if word in text]
    assert not found
