"""Tests that nothing in a pickled checkpoint is imported, built or called."""

from __future__ import annotations

import encodings.cp437  # noqa: F401 (zipfile imports it late)
import io
import pickle
import random
import struct
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from gtacli.errors import GtaError
from gtacli.models.files import read_weights
from gtacli.models.search import flatten
from gtacli.runtime.archives import read_archive
from gtacli.runtime.pickles import ArchiveError, StoredTensor, Stub

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.int64)[1:]}
_watched: list[str] | None = None
_DANGEROUS = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "pickle.")


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _watched is not None and event.startswith(_DANGEROUS):
        _watched.append(f"{event} {args!r:.100}")


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fail if Python imports, compiles or starts anything meanwhile."""
    global _watched
    if not getattr(sys, "_gta_watch", False):
        sys.addaudithook(_watch)
        sys._gta_watch = True  # type: ignore[attr-defined]
    _watched = []
    try:
        yield
        assert _watched == []
    finally:
        _watched = None


def archive(pickled: bytes, storages: dict[str, bytes] | None = None) -> Any:
    """Return an open checkpoint of torch with this pickle."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("archive/data.pkl", pickled)
        for key, value in (storages or {}).items():
            out.writestr(f"archive/data/{key}", value)
    file.seek(0)
    return file


def pickled(payload: Any) -> bytes:
    file = io.BytesIO()
    torch.save(payload, file)
    with zipfile.ZipFile(file) as opened:
        return next(opened.read(n) for n in opened.namelist() if n.endswith("data.pkl"))


def call(name: str, args: bytes) -> bytes:
    """Return opcodes that call MODULE.NAME with a tuple on the stack."""
    module, _, short = name.rpartition(".")
    return f"c{module}\n{short}\n".encode() + args + b"R"


TEXT = b"X\x02\x00\x00\x00id\x85"
BOMB = "gta_bomb_of_these_tests"
ATTACKS: dict[str, bytes] = {
    "reduce": call("os.system", TEXT),
    "builtin": call("builtins.exec", TEXT),
    "eval in two steps": call("builtins.getattr", b"cbuiltins\neval\nX\x04\x00\x00\x00call\x86"),
    "torch's own": call("torch.hub.load", TEXT),
    "torch.load": call("torch.load", TEXT),
    "inst": b"(X\x02\x00\x00\x00idios\nsystem\n",
    "obj": b"(cos\nsystem\nX\x02\x00\x00\x00ido",
    "newobj": b"cos\nsystem\n" + TEXT + b"\x81",
    "newobj_ex": b"cos\nsystem\n" + TEXT + b"}\x92",
    "stack global": b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93" + TEXT + b"R",
    "module of one's own": call(f"{BOMB}.boom", b")"),
    "state of a class": b"cos\nsystem\n}X\x08\x00\x00\x00__call__K\x01sb",
    "class of a state": b"cbuiltins\nobject\n)\x81}X\x09\x00\x00\x00__class__cos\nsystem\nsb",
    "subclass of a tensor": call(
        "torch._tensor._rebuild_from_type_v2", b"(cos\nsystem\ncos\nsystem\n" + TEXT + b"}t"
    ),
    "factory": call("collections.defaultdict", b"cos\nsystem\n\x85"),
    "dictionary of calls": call("collections.OrderedDict", b"cos\nsystem\n" + TEXT + b"R\x85"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_become_stubs(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{BOMB}.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit):
        pickle.loads(ATTACKS["module of one's own"] + b".")
    whole = pickled({"x": 99, "w": TENSORS["a"]})
    assert whole.count(b"Kc") == 1
    attacked = whole.replace(b"Kc", ATTACKS[name])
    with archive(attacked, {"0": TENSORS["a"].numpy().tobytes()}) as file, nothing_runs():
        found = flatten(read_archive(file).payload)
        assert found["w"].leaf.read().tolist() == TENSORS["a"].tolist()
        assert isinstance(found["w"].leaf, StoredTensor)


# What a pickle does to objects must not reach what the reader itself uses.
INNER: dict[str, bytes] = {
    "tensor": b"X\x01\x00\x00\x00w",
    "maker": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "dictionary": b"ccollections\nOrderedDict\n)R",
}


STATES = (
    b"}X\x05\x00\x00\x00shape(I9\nI9\ntsb",
    b"N}X\x05\x00\x00\x00shapeK\x09s\x86b",
)


@pytest.mark.parametrize("state", STATES)
def test_states_do_not_change_tensors(state: bytes) -> None:
    """BUILD would set attributes of the tensor, behind the checks of its size."""
    whole = pickled({"w": TENSORS["a"]})
    at = whole.rindex(b"R") + 1  # behind the call that makes the tensor
    assert whole[at:].count(b"s") == 1
    with archive(whole[:at] + state + whole[at:], {"0": bytes(24)}) as file:
        tensor = read_archive(file).payload["w"]
        assert tensor.shape == (2, 3)
        assert tensor.read().shape == (2, 3)


def test_states_do_not_change_the_reader() -> None:
    attack = b"ctorch._utils\n_rebuild_tensor_v2\n}X\x05\x00\x00\x00_makecos\nsystem\nsb0"
    with archive(b"\x80\x02" + attack + pickled({"w": 1})[2:]) as file:
        assert read_archive(file).payload == {"w": 1}
    with archive(pickled({"w": TENSORS["a"]}), {"0": bytes(24)}) as file:
        assert isinstance(read_archive(file).payload["w"], StoredTensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"K\x02K\x03\x86", b"K\x03K\x03\x86"), r"tensor of shape \(3, 3\)"),
        ((b"K\x02K\x03\x86", b"]\x85"), "is damaged"),
        ((b"K\x02K\x03\x86", b"J\xff\xff\xff\xffK\x03\x86"), "is damaged"),
        ((b"FloatStorage", b"NoSuchStorage"), "is damaged"),
        ((b"K\x06tq", b"K\x07tq"), "says that storage 0 has 28 bytes, but holds 24"),
        ((b"X\x01\x00\x00\x000q", b"]q"), "is damaged"),
    ],
)
def test_lies_about_sizes(change: tuple[bytes, bytes], message: str) -> None:
    whole = pickled({"w": TENSORS["a"]})
    assert whole.count(change[0]) == 1
    lie = archive(whole.replace(*change), {"0": bytes(24)})
    with lie, pytest.raises(ArchiveError, match=message):
        read_archive(lie)


def test_mutated_checkpoints_run_nothing(tmp_path: Path) -> None:
    """Whatever the bytes, a file is read or is one clear error."""
    draw = random.Random(0)
    path = tmp_path / "a.pth"
    torch.save({"state_dict": TENSORS, "lr": 0.1, "names": ["x", ("y", 2)]}, path)
    old = {"state_dict": TENSORS, "x": 1}
    torch.save(old, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    opcodes = [bytes([code]) for code in range(256)] + [
        *ATTACKS.values(), *INNER.values(), struct.pack("<I", 1 << 31), b"\xff" * 8,
    ]  # fmt: skip
    for original in (path.read_bytes(), (tmp_path / "b.pth").read_bytes()):
        start = original.index(b"\x80\x02")
        for _ in range(400):
            at = draw.randrange(start, min(start + 600, len(original)))
            inserted = draw.choice(opcodes)
            skipped = draw.choice((0, len(inserted)))
            path.write_bytes(original[:at] + inserted + original[at + skipped :])
            with nothing_runs():
                try:
                    tensors, _ = read_weights(path)
                except GtaError:
                    continue
                assert all(isinstance(t, torch.Tensor) for t in tensors.values())


def test_random_pickles_run_nothing() -> None:
    draw = random.Random(1)
    codes = b"()]}012RbsuaetNoQ\x85\x86\x81\x92\x93\x94\x8f\x90\x91\x97\x98"
    pieces = [
        *ATTACKS.values(),
        *INNER.values(),
        *(bytes([code]) for code in codes),
        *(b"q\x00", b"h\x00", b"K\x01", b"X\x01\x00\x00\x00w", b"\x82\x01"),
    ]
    for _ in range(2000):
        body = b"".join(draw.choice(pieces) for _ in range(draw.randrange(1, 12)))
        with archive(b"\x80\x04" + body + b".") as file, nothing_runs(), suppress(ArchiveError):
            flatten(read_archive(file).payload)


def test_shared_lists_are_looked_through_once() -> None:
    """A pickle of 200 bytes can mean 2^60 paths."""
    value: Any = {"t": 1}
    for _ in range(60):
        value = {"l": value, "r": value}
    with archive(pickle.dumps(value, 2)) as file:
        assert flatten(read_archive(file).payload) == {}


def test_objects_keep_what_they_hold() -> None:
    class Holder(dict[str, Any]):
        pass

    Holder.__qualname__ = "Holder"
    globals()["Holder"] = Holder
    holder = Holder(x=TENSORS["a"])
    holder.extra = {"y": TENSORS["a"]}  # type: ignore[attr-defined]
    with archive(pickled({"m": holder}), {"0": bytes(24)}) as file:
        content = read_archive(file)
    assert isinstance(content.payload["m"], Stub)
    assert list(flatten(content.payload)) == ["m.x", "m.extra.y"]
    assert content.foreign == (f"{__name__}.Holder",)
