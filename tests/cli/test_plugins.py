"""Tests of `gta plugins check DIST|new`, and of a machine full of bad plug-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gtacli.registry import GROUPS

HOSTILE = {
    "raises": "raise RuntimeError('no luck')",
    "prints": "print('welcome')\nfrom gtacli.regularizers.bss import BSS as Part",
    "hangs": "import time\ntime.sleep(2)\nfrom gtacli.regularizers.bss import BSS as Part",
    "exits": "import sys\nsys.exit(0)",
    "quits": "class Quit(BaseException): pass\nraise Quit('bye')",
    "heavy": "import torch\nfrom gtacli.regularizers.bss import BSS as Part",
    "stranger": "class Part: pass",
    "lacks": "import not_there_at_all",
    "odd": "from gtacli.regularizers.bss import BSS\nclass Part(BSS): Options = 3",
    "newer": "from gtacli.regularizers.bss import BSS as Part",
}
LOADS = ("prints", "hangs", "heavy", "odd")


def install(site: Path, name: str, groups: dict[str, str], requires: str = "gtacli") -> None:
    """Write the metadata of a distribution with one part in each group."""
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\nRequires-Dist: {requires}\n"
    (info / "METADATA").write_text(metadata)
    lines = [line for group, entry in groups.items() for line in (f"[{group}]", entry)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a bad plug-in of each kind; a module that is imported leaves a file."""
    site = tmp_path / "site"
    for name, text in HOSTILE.items():
        requires = "gtacli>=9" if name == "newer" else "gtacli>=0.1"
        groups = dict.fromkeys(
            # `gta models list` shows the help line of each model.
            [registry.group for registry in GROUPS if registry.group != "gta.models"],
            f"hostile-{name} = hostile_{name}:Part",
        )
        install(site, f"dist-{name}", groups, requires)
        mark = f"open({str(site / name)!r} + '.imported', 'w').close()\n"
        (site / f"hostile_{name}.py").write_text(mark + text)
    for name in ("first", "second"):
        install(site, f"twin-{name}", {"gta.regularizers": "twin = hostile_heavy:Part"})
    monkeypatch.syspath_prepend(str(site))
    for name in HOSTILE:
        monkeypatch.delitem(sys.modules, f"hostile_{name}", raising=False)
    return site


def imported(site: Path) -> list[str]:
    return sorted(path.stem for path in site.glob("*.imported"))


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["plugins", "list", "--json"],
        ["finetune", "--help"],
        ["finetune", "--print-config"],
        ["finetune", "--regularizer", "gta", "--print-config"],
        ["discover", "--help"],
        ["segment", "--help"],
        ["study", "--help"],
        ["recipes", "list"],
        ["models", "list", "demo"],
        ["data", "check", "demo"],
    ],
    ids=" ".join,
)
def test_no_other_command_imports_a_plugin(gta: Any, hostile: Path, words: list[str]) -> None:
    assert gta(*words).status == 0
    assert imported(hostile) == []


def test_each_is_blamed_by_its_distribution(gta: Any, hostile: Path) -> None:
    checked = gta("plugins", "check", "--json")
    assert checked.status == 1
    rows = [row for row in checked.lines if row["kind"] == "gta.regularizers"]
    state = {row["name"].removeprefix("hostile-"): row for row in rows if not row["builtin"]}
    for name in HOSTILE:
        error = state[name]["error"]
        if name in LOADS:
            assert error is None
        else:
            assert f"of dist-{name} 1.2" in error
            assert "\n" not in error
    assert "was made for gtacli >=9" in state["newer"]["error"]
    hidden = [row for row in rows if row["distribution"] == "twin-second"]
    assert "is hidden by that of twin-first" in hidden[0]["error"]
    assert all(row["error"] is None for row in checked.lines if row["builtin"])
    assert "newer" not in imported(hostile)


BLAMED = ["raises", "exits", "quits", "stranger", "lacks", "odd", "newer"]


@pytest.mark.parametrize("name", BLAMED)
def test_the_help_that_chooses_one_is_shown(gta: Any, hostile: Path, name: str) -> None:
    shown = gta("finetune", "--regularizer", f"hostile-{name}", "--help")
    assert shown.status == 0
    assert "--regularizer" in shown.out


@pytest.mark.parametrize("name", BLAMED)
def test_a_command_that_needs_one_says_whose_it_is(
    gta: Any, hostile: Path, name: str, tiny_data: Path
) -> None:
    used = gta("finetune", "--regularizer", f"hostile-{name}", "--data", str(tiny_data))
    assert used.status == 2
    assert f"of dist-{name} 1.2" in used.err
    assert "Traceback" not in used.err


@pytest.mark.slow
def test_the_help_is_as_fast_with_them(hostile: Path) -> None:
    """Without torch or timm, in a process of its own (typer itself imports pydantic)."""
    code = (
        f"import sys; sys.path.insert(0, {str(hostile)!r}); from gtacli.cli import main;"
        "main(['--help']); main(['plugins', 'list']);"
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_new_plugin_is_checked(gta: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = gta("plugins", "new", "from-the-cli", "--kind", "model")
    assert written.status == 0
    assert "gta-from-the-cli/pyproject.toml" in written.out
    assert "pip install -e gta-from-the-cli" in written.err
    checked = gta("plugins", "check", "./gta-from-the-cli")
    assert checked.status == 0
    assert checked.out.splitlines()[-1].split() == ["gta.models", "from-the-cli", "8", "0", "0"]
    again = gta("plugins", "new", "from-the-cli", "--kind", "model")
    assert again.status == 2
    assert "--out: gta-from-the-cli is not empty" in again.err


def test_a_broken_promise_is_a_line_and_status_1(
    gta: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gta("plugins", "new", "without-help", "--kind", "model")
    file = Path("gta-without-help/src/gta_without_help/model.py")
    file.write_text(file.read_text().replace('"a small ViT with random weights"', '""'))
    broken = gta("plugins", "check", "gta-without-help/", "--json")
    assert broken.status == 1
    [row] = [row for row in broken.lines if row["state"] == "broken"]
    assert (row["name"], row["promise"]) == ("without-help", "it describes itself in a line")
    shown = gta("plugins", "check", "gta-without-help/").out.splitlines()
    assert shown[0].startswith("without-help: it describes itself in a line: broken: help is no")


def test_what_is_not_checked_has_a_reason(
    gta: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gta("plugins", "new", "unread", "--kind", "dataset")
    file = next(Path("gta-unread").rglob("*.py"))
    shown = gta("plugins", "check", "./gta-unread")
    reasons = [line for line in shown.out.splitlines() if ": not checked: " in line]
    assert shown.status == 0, file
    assert reasons
    assert all(line.rpartition(": not checked: ")[2].startswith("no ") for line in reasons)
    assert shown.out.splitlines()[-1].split()[-1] == str(len(reasons))


@pytest.mark.slow
@pytest.mark.usefixtures("delta")
def test_an_installed_distribution_comes_before_a_folder(
    gta: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gta("plugins", "new", "delta", "--kind", "model")  # in ./gta-delta
    checked = gta("plugins", "check", "gta-delta", "--json")
    assert {row["kind"] for row in checked.lines} == {"gta.regularizers"}
    assert "checking the installed gta-delta, not the folder of that name" in checked.err
    assert "./gta-delta is the folder" in checked.err
    other = gta("plugins", "check", "./gta-delta", "--json")
    assert {row["kind"] for row in other.lines} == {"gta.models"}


def test_wrong_words(gta: Any) -> None:
    wrong = gta("plugins", "new", "fine", "--kind", "mop")
    assert wrong.status == 2
    assert "--kind: must be one of regularizer" in wrong.err
    nobody = gta("plugins", "check", "nobody")
    assert nobody.status == 2
    assert "no installed distribution 'nobody' offers parts" in nobody.err
