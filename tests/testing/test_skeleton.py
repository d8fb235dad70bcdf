"""Skeletons of plug-ins: they keep the promises of their kind, and pass the checks of code."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gtacli.errors import UsageError
from gtacli.registry import GROUPS
from gtacli.runtime.versions import api_bounds
from gtacli.testing import Check
from gtacli.testing.distribution import check_distribution
from gtacli.testing.skeleton import KINDS, write_skeleton


def load_test(folder: Path) -> Any:
    """Import the test file of a skeleton."""
    [file] = (folder / "tests").glob("test_*.py")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"in-process-{kind}"
    folder = tmp_path / "plugin"
    write_skeleton(name, kind, folder)
    monkeypatch.syspath_prepend(str(folder / "src"))
    module = load_test(folder)
    [mark] = module.test_conformance.pytestmark
    checks: list[Check] = mark.args[1]
    assert len(checks) >= 7
    for check in checks:
        if "all processes" not in check.promise:
            module.test_conformance(check)


def test_every_group_has_a_skeleton() -> None:
    assert {kind.group for kind in KINDS.values()} == {registry.group for registry in GROUPS}


def test_the_metadata(tmp_path: Path) -> None:
    written = write_skeleton("gta-two-words", "regularizer", tmp_path / "new")
    assert [path.relative_to(tmp_path / "new").as_posix() for path in written] == [
        "README.md",
        "pyproject.toml",
        "src/gta_two_words/__init__.py",
        "src/gta_two_words/options.py",
        "src/gta_two_words/py.typed",
        "src/gta_two_words/regularizer.py",
        "tests/test_two_words.py",
    ]
    project = tomllib.loads((tmp_path / "new" / "pyproject.toml").read_text())["project"]
    assert project["name"] == "gta-two-words"
    assert project["dependencies"] == [api_bounds()]
    points = project["entry-points"]
    assert points["gta.regularizers"] == {"two-words": "gta_two_words.regularizer:TwoWords"}
    assert points["gta.options"] == {
        "regularizers.two-words": "gta_two_words.options:TwoWordsOptions"
    }


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        ("Upper", "model", "'Upper' is no name of a part"),
        ("../up", "model", "is no name"),
        ("two--hyphens", "model", "is no name"),
        ("1st", "model", "is no name"),
        ("", "model", "is no name"),
        ("x" * 50, "model", "at most 40 characters"),
        ("gta", "regularizer", "gta has a regularizer 'gta' of its own"),
        ("none", "regularizer", "of its own"),
        ("true", "model", "a word of Python"),
        ("fine", "schedule", "kind: must be one of regularizer, .*got 'schedule'"),
    ],
)
def test_what_cannot_be_written(name: str, kind: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=what):
        write_skeleton(name, kind, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        write_skeleton("fine", "model", tmp_path)
    with pytest.raises(UsageError, match=r"mine.txt is a file"):
        write_skeleton("fine", "model", tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_project_is_checked_where_it_lies(tmp_path: Path) -> None:
    folder = tmp_path / "plugin"
    write_skeleton("lies-here", "model", folder)
    verdicts = [*check_distribution(str(folder))]
    assert {verdict.state for verdict in verdicts} == {"kept"}
    assert {verdict.origin.distribution for verdict in verdicts} == {"gta-lies-here"}
    assert not any("lies" in path for path in sys.path)


def test_broken_promises_of_a_project_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "plugin"
    write_skeleton("silent-one", "model", folder)
    file = folder / "src" / "gta_silent_one" / "model.py"
    file.write_text(file.read_text().replace('"a small ViT with random weights"', '""'))
    broken = [v for v in check_distribution(str(folder)) if v.state == "broken"]
    assert [(v.promise, v.reason) for v in broken] == [
        ("it describes itself in a line", "help is no line for the list of models")
    ]


def test_a_project_that_does_not_load(tmp_path: Path) -> None:
    folder = tmp_path / "plugin"
    write_skeleton("does-not-load", "regularizer", folder)
    (folder / "src" / "gta_does_not_load" / "regularizer.py").write_text("import not_there")
    [verdict] = check_distribution(str(folder))
    assert verdict.state == "broken"
    assert "gta-does-not-load" in str(verdict.reason)
    assert "not_there" in str(verdict.reason)


def test_a_declaration_of_other_options(tmp_path: Path) -> None:
    folder = tmp_path / "plugin"
    write_skeleton("other-options", "discovery", folder)
    file = folder / "pyproject.toml"
    file.write_text(file.read_text().replace("OtherOptionsOptions", "DiscoveryOptions"))
    reasons = [v.reason for v in check_distribution(str(folder)) if "declares" in v.promise]
    assert reasons
    assert "DiscoveryOptions" in str(reasons[0])


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("./nowhere", "is no project: it has no pyproject.toml"),
        ("gta-nowhere", "no installed distribution 'gta-nowhere' offers parts"),
        ("gtacl", "did you mean 'gtacli'"),
    ],
)
def test_what_is_no_distribution(what: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        next(check_distribution(what))


def test_a_project_without_parts(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    with pytest.raises(UsageError, match="offers no parts"):
        next(check_distribution(str(tmp_path)))
    (tmp_path / "pyproject.toml").write_text("[project\n")
    with pytest.raises(UsageError, match="cannot be read"):
        next(check_distribution(str(tmp_path)))


@pytest.mark.parametrize("kind", KINDS)
def test_ruff_finds_nothing(kind: str, tmp_path: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("needs ruff")
    write_skeleton("neat-one", kind, tmp_path / "new")
    for words in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([ruff, *words, "."], cwd=tmp_path / "new", capture_output=True)
        assert done.returncode == 0, done.stdout.decode()


@pytest.mark.slow
def test_mypy_finds_nothing(tmp_path: Path) -> None:
    mypy = Path(sys.executable).with_name("mypy")
    if not mypy.exists():
        pytest.skip("needs mypy")
    folders = []
    for kind in KINDS:
        write_skeleton(f"typed-{kind}", kind, tmp_path / kind)
        folders.append(str(tmp_path / kind / "src"))
    words = [str(mypy), "--strict", "--no-incremental", *folders]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_it_installs_and_its_tests_pass(tmp_path: Path) -> None:
    """As its README says, but that nothing is downloaded."""
    folder, site = tmp_path / "plugin", tmp_path / "site"
    write_skeleton("installed-one", "regularizer", folder)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--target", str(site), "-e", str(folder)], check=True)
    # A folder named here, unlike an installer's, does not have its .pth files read.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder / "src"), str(site)))}
    for words in (
        ["pytest", "-q", "-p", "no:cacheprovider"],
        ["gtacli", "plugins", "check", "gta-installed-one"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
