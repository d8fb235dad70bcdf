"""Every distribution in plugins/: its metadata, and the conformance of its parts."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from gtacli.runtime.versions import api_bounds
from gtacli.testing import checks
from gtacli.testing.distribution import check_distribution
from gtacli.testing.promises import Check, NotApplicable

FOLDERS = sorted((Path(__file__).resolve().parents[2] / "plugins").iterdir())


def project(folder: Path) -> Any:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def load(folder: Path, value: str, patch: pytest.MonkeyPatch) -> Any:
    patch.syspath_prepend(str(folder))
    module, _, attribute = value.partition(":")
    return getattr(importlib.import_module(module), attribute)


def points(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield group, name and value of the parts."""
    for group, entries in project(folder)["entry-points"].items():
        if group != "gta.options":
            yield from ((group, name, value) for name, value in entries.items())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_metadata(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = project(folder)
    assert about["name"] == folder.name
    assert api_bounds() in about["dependencies"]
    declared = about["entry-points"].get("gta.options", {})
    for group, name, value in points(folder):
        part = load(folder, value, monkeypatch)
        if hasattr(part, "Options"):
            key = f"{group.removeprefix('gta.')}.{name}"
            assert load(folder, declared[key], monkeypatch) is part.Options
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {folder.name}\n")
    assert f"pip install -e plugins/{folder.name}" in readme
    assert len(readme.splitlines()) < 100


def quick_checks(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Check]:
    for _, _, value in points(folder):
        for check in checks(load(folder, value, patch)):
            if "all processes" not in check.promise:
                yield check


def require_dependencies(folder: Path) -> None:
    """Skip the test where a package is missing that only this plug-in needs."""
    for text in project(folder)["dependencies"]:
        try:
            metadata.version(Requirement(text).name)
        except metadata.PackageNotFoundError as error:
            pytest.skip(f"{error} is not installed")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_conformance(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_dependencies(folder)
    kept = 0
    for check in quick_checks(folder, monkeypatch):
        try:
            check()
        except NotApplicable:
            continue
        kept += 1
    assert kept >= 7


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_whole_suite(folder: Path) -> None:
    require_dependencies(folder)
    verdicts = [*check_distribution(str(folder))]
    assert len(verdicts) > 7
    assert [v.promise for v in verdicts if v.state == "broken"] == []
