"""The script for a GPU: its parts exist and take their options; its table."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPT = (FOLDER / "gpu.sh").read_text()
SHARED = {
    "finetune_step": ["--device", "--precision", "--model", "--compile", "--rows", "--variants"],
    "pretrain_step": ["--repos", "--device", "--precision", "--model", "--batch-size", "--repeats"],
    "tokencut": ["--device", "--sizes", "--images", "--repeats"],
    "probe": ["--what", "--without", "--device", "--width", "--classes", "--keys", "--queries"],
    "attention_export": ["--images", "--count", "--model", "--image-size", "--naive", "--repeats"],
    "augment": ["--device", "--auto-augment", "--batch-size", "--repeats"],
    "decode": ["--device", "--count", "--repeats"],
}


def test_each_part_is_a_script_with_its_options() -> None:
    called = set(re.findall(r'^ *part "?[\w$() *-]+"? "?[\w$]+"? (\w+)', SCRIPT, re.MULTILINE))
    assert called == set(SHARED)
    for name, options in SHARED.items():
        source = (FOLDER / f"{name}.py").read_text()
        assert [option for option in options if f'"{option}"' not in source] == []
    used = set(re.findall(r"--[a-z][a-z-]+", SCRIPT)) - {"--no-memory", "--image-size"}
    assert used <= {option for options in SHARED.values() for option in options}


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_its_syntax() -> None:
    assert subprocess.run(["bash", "-n", str(FOLDER / "gpu.sh")]).returncode == 0


def test_rows_of_the_table(gpu_table: ModuleType) -> None:
    same = {"median": 1.0, "low": 1.0, "high": 1.0}
    line = {
        "part": "step",
        "seconds": {"gta": 3.0},
        "images_per_second": {"gta": 410.0},
        "ratio": {"plain": same, "gta": {"median": 1.29, "low": 1.2, "high": 1.4}},
    }
    assert list(gpu_table.rows(line)) == [
        ("images_per_second: gta", "410", ""),
        ("ratio: gta", "1.29", "1.20 to 1.40"),
    ]
