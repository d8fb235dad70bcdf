"""Tests of the writer of safetensors files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gtacli.runtime.tensor_file import check_tensor_file, write_tensor_file

TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.arange(5, dtype=torch.int64),
    "half": torch.randn(3, 2).to(torch.bfloat16),
    "mask": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
    "turned": torch.arange(6.0).reshape(2, 3).t(),
}
METADATA = {"format": "pt", "classes": '["Müller", "a\\"b"]', "b": "1", "c": "2", "d": "3"}


def test_content_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    for seal in (False, True):
        write_tensor_file(file, TENSORS, METADATA, seal)
        found = load_file(file)
        assert found.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
        with safe_open(file, "pt") as opened:
            assert opened.metadata().items() >= METADATA.items()
    check_tensor_file(file)


def test_layout_is_that_of_the_library(tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in TENSORS.items()}, tmp_path / "a", {"format": "pt"})
    write_tensor_file(tmp_path / "b", TENSORS, {"format": "pt"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_parts_are_joined(tmp_path: Path) -> None:
    parts = [torch.randn(n, 3) for n in (2, 0, 4)]
    write_tensor_file(tmp_path / "a", {"x": parts}, {})
    assert torch.equal(load_file(tmp_path / "a")["x"], torch.cat(parts))


def test_order_of_the_content_does_not_matter(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "a", TENSORS, METADATA, seal=True)
    turned = ({k: v[k] for k in reversed(v)} for v in (TENSORS, METADATA))
    write_tensor_file(tmp_path / "b", *turned, seal=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_equal_content_gives_equal_files(tmp_path: Path) -> None:
    """In other processes, whose hashes of strings differ."""
    code = (
        "import sys, torch; from pathlib import Path;"
        "from gtacli.runtime.run_folder import RunFolder;"
        "RunFolder(Path(sys.argv[1])).write_tensors({'b': torch.ones(2), 'a': torch.zeros(3)},"
        "{str(n): 'text' for n in range(12)}, 'model.safetensors')"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_digest_notices_flipped_bits(tmp_path: Path) -> None:
    """But in its own name and in the header's length, which leave no readable file."""
    file = tmp_path / "a.safetensors"
    write_tensor_file(file, TENSORS, {"kind": "{}"}, seal=True)
    whole = file.read_bytes()
    mark = whole.index(b'"digest":"')
    places = {*range(8, len(whole))} - {*range(mark, mark + 10)}
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        file.write_bytes(data)
        with pytest.raises(ValueError, match="not that of its digest"):
            check_tensor_file(file)
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="not that of its digest"):
        check_tensor_file(file)


def test_file_without_a_digest_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_tensor_file(file, TENSORS, {"kind": "{}"})
    with pytest.raises(ValueError, match="it has no digest"):
        check_tensor_file(file)
