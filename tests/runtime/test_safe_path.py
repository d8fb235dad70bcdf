"""Commands that start others run nothing that lies in the current folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GTA = Path(sys.executable).with_name("gta")


@pytest.mark.skipif(not GTA.is_file(), reason="needs the command on the disk")
@pytest.mark.slow
def test_processes_of_a_run_import_nothing_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("timm", "gtacli", "h11"):
        (tmp_path / f"{name}.py").write_text(f"open('{tmp_path}/run', 'w')", encoding="utf-8")
    words = ["finetune", "--nproc", "2", "--data", "nowhere", "--model", "demo"]
    done = subprocess.run(
        [str(GTA), *words], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2
    assert "no folder or file 'nowhere'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_command_of_an_executor_imports_nothing_from_there(tmp_path: Path) -> None:
    (tmp_path / "gtacli.py").write_text(f"open('{tmp_path}/run', 'w')", encoding="utf-8")
    code = (
        "import sys; sys.path.pop(0)\n"
        "from pathlib import Path\n"
        "from gtacli.executors.base import run_words\n"
        "sys.exit(run_words(['--version'], Path('log'), Path.cwd()))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=100)
    assert not (tmp_path / "run").exists()
