"""Write the tree in docs/architecture.md: packages, what each is, and the modules in it.

python docs/scripts/tree.py

The order of the floors is that of the import rules in pyproject.toml; a package's description is
the first line of its docstring.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gtacli"
PAGE = ROOT / "docs" / "architecture.md"
BLOCK = re.compile(r"(?<=```text\n)gtacli/.*?(?=```)|(?<=```text\n)TREE\n(?=```)", re.DOTALL)
WIDTH, COLUMN = 100, 26
TITLES = {
    "cli": "the command line",
    "demo | report | study | trained": "verbs over runs of other verbs",
    "finetuning | pretraining | probing": "verbs that train or measure",
    "inference": "verbs on images: predict, segment, discover, attention-map, embed",
    "training": "the engine",
    "testing": "for authors of plug-ins",
    "discovery | regularizers": "parts that use networks, each with a registry group",
    "data | executors | models": "parts: datasets, networks, executors; a registry group each",
    "config": "configuration",
    "registry": "the registry",
    "measures | rendering | scenes": "numbers, drawings, drawn scenes",
    "images": "pixels",
    "runtime": "ground",
}
AROUND = {
    "plugins/": "distributions of their own that extend gta through entry points",
    "recipes/": "TOML recipes, shipped in the wheel; the first line of each is the command",
    "benchmarks/": "one script per measurement; each prints JSON with ratios from the same run",
    "deploy/": "job files for SLURM, Kubernetes and SkyPilot",
    "docs/": "these pages; the scripts among them make pictures, tables and the site",
    "tests/": "mirrors gtacli/",
}


def tree() -> str:
    """Return the tree as text."""
    lines = ["gtacli/"]
    for floor in floors():
        if title := TITLES.get(floor):
            lines.append(f"  ---- {title} ".ljust(WIDTH, "-"))
        for name in floor.split(" | "):
            lines += entry(PACKAGE / name, 1)
    lines += [f"{name:<{COLUMN}}{text}" for name, text in AROUND.items()]
    return "\n".join(lines) + "\n"


def floors() -> list[str]:
    """Return the floors of the import rules, the highest first; siblings joined by " | "."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return next(list(c["layers"]) for c in contracts if c["type"] == "layers")


def entry(path: Path, depth: int) -> Iterator[str]:
    """Yield the lines of a package, or of a module on the top floor."""
    indent = "  " * depth
    if not path.is_dir():
        yield f"{indent}{path.name}.py".ljust(COLUMN) + summary(path.with_suffix(".py"))
        return
    yield f"{indent}{path.name}/".ljust(COLUMN) + summary(path / "__init__.py")
    modules = sorted(file.stem for file in path.glob("*.py") if file.stem != "__init__")
    if modules:
        yield from (f"{indent}  {line}" for line in wrap(" ".join(modules), WIDTH - 2 * depth - 2))
    for package in sorted(file.parent for file in path.glob("*/__init__.py")):
        yield from entry(package, depth + 1)


def summary(file: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def main() -> None:
    """Replace the tree in the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda _: tree(), text, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
