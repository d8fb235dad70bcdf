"""Tests of pickled weights that lie about their size, and of weights that are not finite."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gtacli.errors import GtaError
from gtacli.models import load_model
from gtacli.models.files import read_weights

PAYLOAD = {
    "state_dict": {
        "module.a": torch.arange(12.0).view(3, 4).T,
        "module.b": torch.ones(5, dtype=torch.bfloat16)[1:],
        "module.c": torch.nn.Parameter(torch.zeros(2, 0)),
    },
    "args": argparse.Namespace(lr=0.1),
    "best": np.float64(0.5),
    "optimizer": {"state": {0: {"step": torch.tensor(3)}}, "param_groups": [{"lr": 1e-3}]},
    "epoch": 3,
}


def packed(payload: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(payload, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
def test_official_checkpoints_are_read(tmp_path: Path, legacy: bool) -> None:
    (tmp_path / "a.pth").write_bytes(packed(PAYLOAD, legacy))
    tensors, metadata = read_weights(tmp_path / "a.pth")
    assert metadata == {}
    assert [(n, t.dtype, tuple(t.shape)) for n, t in tensors.items()] == [
        ("a", torch.float32, (4, 3)),
        ("b", torch.bfloat16, (4,)),
        ("c", torch.float32, (2, 0)),
    ]
    assert tensors["a"][1].tolist() == [1, 5, 9]


def rewritten(data: bytes, change: Callable[[str, bytes], bytes], kind: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", kind) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def compressed() -> bytes:
    zeros = packed({"a": torch.zeros(1 << 18)})
    return rewritten(zeros, lambda name, data: data, zipfile.ZIP_DEFLATED)


def short_storage() -> bytes:
    def cut(name: str, data: bytes) -> bytes:
        return data[:8] if name.endswith("data/0") else data

    return rewritten(packed({"a": torch.zeros(64)}), cut, zipfile.ZIP_STORED)


def without_storage() -> bytes:
    out = io.BytesIO()
    data = packed({"a": torch.zeros(64)})
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if not name.endswith("data/0"):
                new.writestr(name, old.read(name))
    return out.getvalue()


def overlapping() -> bytes:
    """Return a zip in which two entries of its directory lie in the same place."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed({"a": torch.zeros(64)}))) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(out, "w") as new:
        for name, data in files.items():
            new.writestr(name, data)
        first = new.infolist()[0]
        twin = zipfile.ZipInfo(first.filename + "x")
        for part in ("header_offset", "file_size", "compress_size", "CRC"):
            setattr(twin, part, getattr(first, part))
        new.filelist.append(twin)
    return out.getvalue()


class Call:
    def __init__(self, of: Any, *args: Any) -> None:
        self.of, self.args = of, args

    def __reduce__(self) -> Any:
        return self.of, self.args


def legacy_storage() -> bytes:
    return packed({"a": torch.zeros(1000)}, legacy=True).replace(b"M\xe8\x03", b"J\x00\x00\x00\x70")


SCALAR = np.float64(0).__reduce__()[0]
LIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "compressed": (compressed, "is compressed or encrypted"),
    "short storage": (short_storage, "says that storage 0 has 256 bytes, but holds 8"),
    "no storage": (without_storage, "says that storage 0 has 256 bytes, but holds 0"),
    "overlapping": (overlapping, "stores .* over another entry"),
    "expanded": (lambda: packed({"a": torch.zeros(1).expand(1 << 40)}), r"has a tensor of shape"),
    "legacy": (legacy_storage, "says that (it|storage .*)"),
    # These are not called.
    "bytes": (lambda: packed({"a": Call(bytearray, 1 << 50)}), "holds no tensors of a model"),
    "tensor": (lambda: packed({"a": Call(torch.Tensor, 1 << 50)}), "holds no tensors of a model"),
    "type": (
        lambda: packed({"a": Call(SCALAR, Call(np.dtype, "V9999999999"))}),
        "holds no tensors of a model; it holds a",
    ),
    "long pickle": (lambda: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00", "is damaged"),
    "memo": (lambda: b"\x80\x02]r\xff\xff\xff\x7f.", "is a pickle, but none of torch"),
    "text": (lambda: b"hello", "is damaged or of an unknown format"),
    "empty": (lambda: b"", "is empty"),
    "other zip": (
        lambda: packed({}).replace(b"data.pkl", b"dat1.pkl"),
        "is a zip archive, but not one of torch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIES)
def test_files_that_lie_about_their_size_are_refused_before_torch_reads_them(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, message = LIES[kind]
    (tmp_path / "a.pth").write_bytes(write())

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("torch has read it")

    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(GtaError, match=f"a.pth {message}|a.pth holds {message}") as caught:
        read_weights(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert "Error" not in str(caught.value)


def test_a_cut_archive_is_refused_at_every_length(tmp_path: Path) -> None:
    data = packed({"a": torch.ones(3)})
    for length in range(0, len(data), 7):
        (tmp_path / "a.pth").write_bytes(data[:length])
        with pytest.raises(GtaError, match=r"a\.pth"):
            read_weights(tmp_path / "a.pth")


def test_a_pickle_nested_deeply_is_no_crash(tmp_path: Path) -> None:
    nested = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    tensors = packed({"a": torch.ones(3)})
    deep = rewritten(tensors, lambda n, d: nested if n.endswith("data.pkl") else d, 0)
    (tmp_path / "a.pth").write_bytes(deep)
    with pytest.raises(GtaError, match="holds no tensors of a model"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(tiny_model: Path, value: float) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = tiny_model / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    name = "blocks.0.attn.qkv.weight"
    tensors[name].view(-1)[:3] = value
    save_file(tensors, file, metadata)
    count = tensors[name].numel()
    with pytest.raises(GtaError, match=rf"model: .*: 3 of {count} values of {name} are NaN or"):
        load_model(str(tiny_model))
    tensors["norm.bias"][:] = value
    save_file(tensors, file, metadata)
    with pytest.raises(GtaError, match=r"\(and of 1 other tensors\) are NaN"):
        load_model(str(tiny_model))


def test_the_pickles_of_these_tests_do_what_they_say() -> None:
    with pytest.raises(MemoryError):
        pickle.loads(pickle.dumps(Call(bytearray, 1 << 50)))
    assert b"\x00\x00\x00\x70" in legacy_storage()
