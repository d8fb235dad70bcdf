"""No table of names of built-in parts stands outside the parts' own modules.

What the program knows of a part it learns through the registry, as from a plug-in. A table is a
tuple, list, set, dict or Literal with two or more names of one group.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gtacli
from gtacli.registry import GROUPS

ROOT = Path(gtacli.__file__).parent
NAMES = {
    registry.group: {origin.name for origin in registry.origins() if origin.builtin}
    for registry in GROUPS
}
KNOWN = {
    # formats of files that are written; `csv` and `parquet` also read datasets
    "cli/predict.py: csv, parquet",
    "config/embed.py: parquet, csv",
    "inference/embedding_files.py: csv, parquet",
    "inference/prediction_table.py: csv, parquet",
    "config/parts.py: tokencut, found, object-dino",  # the default members of the back-end vote
    "data/readers/torch_sets.py: pets, aircraft, cars",  # torchvision's datasets, not our readers
    "executors/slurm.py: slurm, local",  # names of submitit's executors
    "runtime/run_files.py: tensorboard, wandb",  # folders that two loggers write into a run's
}


def tables(tree: ast.AST) -> Iterator[list[str]]:
    """Yield the words of each table."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            elements: list[ast.expr | None] = [*node.elts]
        elif isinstance(node, ast.Dict):
            elements = node.keys
        else:
            continue
        yield [e.value for e in elements if isinstance(e, ast.Constant) and type(e.value) is str]


def found(source: str) -> list[list[str]]:
    """Return the names of parts in each table that has two or more of one group."""
    return [
        names
        for words in tables(ast.parse(source))
        for known in NAMES.values()
        if len(names := [word for word in words if word in known]) > 1
    ]


def test_there_is_none_but_the_known_rest() -> None:
    seen = {
        f"{path.relative_to(ROOT).as_posix()}: {', '.join(names)}"
        for path in ROOT.rglob("*.py")
        for names in found(path.read_text(encoding="utf-8"))
    }
    assert seen - KNOWN == set()
    assert KNOWN - seen == set(), "gone: take it out of KNOWN"


@pytest.mark.parametrize(
    "source",
    [
        "KINDS = ('cls', 'rollout', 'other')",
        "def f(log: Literal['wandb', 'mlflow']): ...",
        "DEFAULTS = {'gta': 0.1, 'l2-sp': 0.01}",
        "if name in ['adamw', 'sgd']: pass",
    ],
)
def test_a_table_is_found(source: str) -> None:
    assert len(found(source)) == 1


def test_other_words_are_none() -> None:
    assert found("x = ('cls', 'patch'); y = {'gta': 1}; z = ['demo', 'wandb']") == []
