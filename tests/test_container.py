"""The Dockerfile names what exists and keeps its promises; hadolint checks it where it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "Dockerfile"

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="needs a checkout")


def instructions() -> list[tuple[str, str]]:
    text = FILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def test_what_it_copies_is_in_its_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = [
        word
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    ]
    assert copied
    for word in copied:
        assert (ROOT / word).exists(), word
        assert word.split("/")[0] in allowed, word


def test_it_runs_as_any_user_but_root() -> None:
    (user,) = (rest for name, rest in instructions() if name == "USER")
    assert int(user) > 0
    assert ("ENTRYPOINT", '["gta"]') in instructions()
    (home,) = re.findall(r"HOME=(\S+)", FILE.read_text(encoding="utf-8"))
    assert f"chmod 1777 {home}" in FILE.read_text(encoding="utf-8")


def test_its_extras_exist() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"'\.\[([a-z,]+)\]'", FILE.read_text(encoding="utf-8"))
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    subprocess.run([hadolint, str(FILE)], check=True)
