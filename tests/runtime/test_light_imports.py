"""Imports without torch's compiler, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LIGHT = "from gtacli.runtime.light_imports import import_lightly; import_lightly(); import sys\n"
COMPILER = "{'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules)"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_libraries_leave_the_compiler_out() -> None:
    """Fails when a release imports it by another way: then a first result costs more time."""
    code = f"import timm, torchvision.transforms.v2, timm.data\nprint({COMPILER})"
    assert run(LIGHT + code) == "set()"


@pytest.mark.slow
def test_what_they_ask_of_the_compiler_is_answered_by_it() -> None:
    code = """
import torch
disable = torch.compiler.disable
import timm, torchvision
from torchvision import ops, tv_tensors
assert torch.compiler.disable is disable
assert 'torch._dynamo' not in sys.modules
image = tv_tensors.Image(torch.zeros(3, 4, 4))
assert type(tv_tensors.wrap(image + 1, like=image)) is tv_tensors.Image
import torch._dynamo.utils as real
assert real.__file__
assert ops.roi_align.__globals__['is_compile_supported']('cpu') == real.is_compile_supported('cpu')
torch._dynamo.reset()
model = torch.compile(timm.create_model('test_vit', num_classes=3).eval(), backend='eager')
with torch.no_grad():
    print(tuple(model(torch.zeros(1, 3, 160, 160)).shape))
"""
    assert run(LIGHT + code) == "(1, 3)"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["counters", "not_there"])
def test_another_name_is_the_compilers_own(name: str) -> None:
    code = f"""
from gtacli.runtime.light_imports import compiler_left_out
with compiler_left_out():
    try:
        from torch._dynamo.utils import {name} as found
    except ImportError as error:
        found = 'none'
import torch._dynamo.utils as real
assert real.__file__
print(getattr(real, '{name}', 'none') is found)
"""
    assert run(LIGHT + code) == "True"


@pytest.mark.slow
def test_who_has_imported_the_compiler_keeps_it() -> None:
    code = """
import torch, torch._dynamo
disable = torch.compiler.disable
import torchvision.ops.roi_align, torchvision.tv_tensors
assert torchvision.tv_tensors.wrap.__module__ == 'torchvision.tv_tensors'
print(torch.compiler.disable is disable, hasattr(torch._dynamo, 'reset'))
"""
    assert run(LIGHT + code) == "True True"


def test_a_prediction_does_without(
    tiny_model: Path, tmp_path: Path, make_image: Callable[..., Path]
) -> None:
    image = make_image(tmp_path / "one.png")
    code = f"""
import sys
from gtacli.cli import main
sys.argv = ['gta', 'predict', {str(image)!r}, '--model', {str(tiny_model)!r}, '--quiet']
assert main() == 0
print({COMPILER}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "set()", done.stderr


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_what_starts_several_processes_does_without_torch(command: str) -> None:
    code = f"""
import sys
from gtacli.runtime import launch
launch.launch = lambda words, count: print(count, 'torch' in sys.modules) or 0
from gtacli.cli import main
main(['{command}', '--data', 'photos', '--nproc', '2'])
"""
    assert run(code) == "2 False"
