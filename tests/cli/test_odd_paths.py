"""Tests of paths that no file can have, wherever a command takes a path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

COMMANDS = {
    "model": "finetune --data {data} --out {out} --model {odd}",
    "source": "finetune --data {data} --out {out} --model {model} --source {odd}",
    "init": "finetune --data {data} --out {out} --model {model} --init {odd}",
    "weights": "finetune --data {data} --out {out} --model vit_tiny_patch16_224@{odd}",
    "adapter": "finetune --data {data} --out {out} --model {model}+{odd}",
    "data": "finetune --model {model} --out {out} --data {odd}",
    "csv": "finetune --model {model} --out {out} --data csv:{odd}",
    "shards": "finetune --model {model} --out {out} --data wds/{odd}",
    "recipe": "finetune --data {data} --out {out} --recipe {odd}",
    "resume": "finetune --resume {odd}",
    "maps": "pretrain --model {model} --data {data} --out {out} --maps {odd}",
    "report": "report {odd} -o {out}.html",
    "predict": "predict {data}/test --model {odd}",
    "embed": "embed {data}/test --model {model} -o {odd}",
    "truth": "segment {data}/test --model {model} --backend dino -o {out} --ground-truth {odd}",
    "teacher": "discover {data}/test -o {out} --teacher {odd}",
    "compare": "probe knn --model {model} --data {data} --compare {odd}",
    "check": "data check {odd}",
}
ODD = {"long": "y" * 300, "home": "~no-such-user/x"}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("command", COMMANDS)
def test_path_that_no_file_can_have_is_a_line(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path, command: str, odd: str
) -> None:
    places = {"model": tiny_model, "data": tiny_data, "out": tmp_path / "out", "odd": ODD[odd]}
    result = gta(*COMMANDS[command].format(**places).split())
    assert result.status == 2
    (line,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert not re.search(r"\b[A-Z]\w+(Error|Exception)\b|Errno|Traceback", result.err)
    assert ODD[odd][:20] in line


@pytest.mark.parametrize("command", [
    "segment {data}/test --model {model} --backend dino -o {out}",
    "attention-map {data}/test --model {model} -o {out}",
    "finetune --data {data} --model {model} --epochs 1 --workers 0 --out {out}",
])  # fmt: skip
def test_result_of_a_name_that_is_too_long(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / ("y" * 300)
    result = gta(*command.format(model=tiny_model, data=tiny_data, out=out).split())
    assert result.status == 2
    assert "file name too long" in result.err.lower()
    assert "OSError" not in result.err
