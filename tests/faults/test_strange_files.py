"""Tests of files of strangers: every reader answers with one line that names the file."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gtacli.data.readers.coco20k import _boxes
from gtacli.data.readers.shards import Shard, _samples
from gtacli.discovery.calibration import read_calibration
from gtacli.discovery.maps.manifest import read_manifest
from gtacli.errors import GtaError
from gtacli.models.adapters import _read_config
from gtacli.probing.class_map import read_class_map
from gtacli.probing.features.files import FeatureKey, is_block, read_column
from gtacli.probing.retrieval.revisited import read_ground_truth
from gtacli.report.run_folders import read_runs
from gtacli.runtime.run_folder import RunFolder
from gtacli.runtime.tensor_file import write_tensor_file

TEXTS = {
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep list": b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "twice": b'{"format": 1, "format": 1, "peft_type": "LORA", "peft_type": "LORA"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
    "huge number": b'{"format": 1e400}',
    "many digits": b'{"format": ' + b"9" * 5000 + b"}",
    "binary": bytes(range(256)),
    "empty": b"",
    "list": b"[1, 2]",
    "text": b'"text"',
}


def _shard(path: Path) -> None:
    text = path.read_bytes()
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("x.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    list(_samples(Shard(path.name, path)))


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "run folder": ("run.json", lambda path: RunFolder(path.parent).read_json("run.json")),
    "report": ("run.json", lambda path: read_runs([str(path.parent)])),
    "adapter": ("adapter_config.json", _read_config),
    "COCO": ("instances_train2014.json", lambda path: _boxes(path, {"a.jpg"})),
    "shard": ("a.tar", _shard),
    "maps": ("manifest.json", lambda path: read_manifest(path.parent)),
    "classes": (
        "map.json",
        lambda path: read_class_map(SimpleNamespace(model=None), path, ["a"]),  # type: ignore[arg-type]
    ),
    "places": ("gnd.json", read_ground_truth),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", TEXTS)
def test_strange_json_is_one_line_with_the_file(tmp_path: Path, reader: str, text: str) -> None:
    name, read = READERS[reader]
    (tmp_path / name).write_bytes(TEXTS[text])
    if reader == "shard" and text in ("list", "text"):
        return  # JSON without a label; the image may have none either
    with pytest.raises(GtaError) as caught:
        read(tmp_path / name)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 400
    for word in ("Error", "Expecting", "codec", "recursion", "object is not", "validation error"):
        assert word not in message


@pytest.mark.parametrize("text", ['{"file_name": "a.jpg"}', '[["a"]]', "3", "null"])
@pytest.mark.parametrize("key", ["images", "annotations"])
def test_wrong_types_in_annotations(tmp_path: Path, text: str, key: str) -> None:
    plain = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}
    (tmp_path / "i.json").write_text(json.dumps({**plain, key: json.loads(text)}))
    with pytest.raises(GtaError, match=r"cannot read .*i\.json: it is no file of COCO"):
        _boxes(tmp_path / "i.json", {"a.jpg"})


@pytest.mark.parametrize("bbox", [[1, 2, 3], "abcd", [1, 2, "3", 4], [True, 1, 2, 3], None])
def test_a_box_that_is_none_is_named(tmp_path: Path, bbox: Any) -> None:
    one = {"image_id": 1, "bbox": bbox, "iscrowd": 0}
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [one]}
    (tmp_path / "i.json").write_text(json.dumps(content))
    with pytest.raises(GtaError, match="a `bbox` is not"):
        _boxes(tmp_path / "i.json", {"a.jpg"})


@pytest.mark.parametrize(
    ("bbox", "boxes"),
    [
        ([1, 2, -3, 4], None),
        ([1, 2, 3, -4.5], None),
        ([1e308, 2, 1e308, 4], None),
        ([-9, 2, 30, 4], None),
        ([1, 2, 0, 4], ()),
        ([1, 2, 3, 0.2], ()),
        ([1, 2, 3.4, 0.8], ((1, 2, 4, 3),)),
    ],
)
def test_boxes_without_area(tmp_path: Path, bbox: Any, boxes: Any) -> None:
    one = {"image_id": 1, "bbox": bbox, "iscrowd": 0}
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [one]}
    (tmp_path / "i.json").write_text(json.dumps(content))
    if boxes is not None:
        assert _boxes(tmp_path / "i.json", {"a.jpg"}) == {"a.jpg": boxes}
        return
    with pytest.raises(GtaError, match=r"cannot read .*i\.json: .* outside of any image"):
        _boxes(tmp_path / "i.json", {"a.jpg"})


CHOICE = {"blocks": [3], "tau": 0.3, "iou": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": [4]},
        {"blocks": []},
        {"blocks": ["3"]},
        {"tau": 0.4},
        {"tau": "0.3"},
        {"iou": 3},
        {"x": 1},
    ],
    ids=str,
)
def test_a_calibration_that_was_never_made_is_not_taken(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    file = tmp_path / "choice.json"
    file.write_text(json.dumps(CHOICE))
    assert read_calibration(file, [2, 3], [0.2, 0.3]) is not None
    file.write_text(json.dumps({**CHOICE, **change}))
    assert read_calibration(file, [2, 3], [0.2, 0.3]) is None


@pytest.mark.parametrize("tau", [2.0, 0.0, -1, "NaN"])
def test_a_tau_that_no_vote_can_have_is_not_taken(tmp_path: Path, tau: object) -> None:
    file = tmp_path / "choice.json"
    file.write_text(json.dumps({**CHOICE, "tau": tau}).replace('"NaN"', "NaN"))
    assert read_calibration(file, [2, 3], None) is None


KEY = FeatureKey(
    model="demo", fingerprint="f", image_size=(96, 96), mean=(0.5,) * 3, std=(0.5,) * 3,
    precision="float32", layer=3, pool="cls", data="d",
)  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "skipped", "message"),
    [
        ({}, "{}", None),
        ({"rows": torch.arange(3)}, "{}", "4 `values` and 3 `rows`"),
        ({"rows": torch.arange(4.0)}, "{}", "its `rows` are F32"),
        ({"rows": torch.tensor([0, 1, 1, 2])}, "{}", "not in order"),
        ({"rows": torch.tensor([-1, 1, 2, 3])}, "{}", "not in order"),
        ({"values": torch.full((4, 2), torch.nan)}, "{}", "not all finite"),
        ({"values": torch.zeros(4)}, "{}", r"its `values` are F32 \(4,\)"),
        ({"values": torch.zeros(4, 2, dtype=torch.float64)}, "{}", "its `values` are F64"),
        ({}, "[]", "its `skipped` is no object"),
        ({}, '{"1": 2}', "its `skipped` is no object"),
        ({}, "{" * 9999, "it is not JSON"),
    ],
)
def test_features_are_read_through_a_schema(
    tmp_path: Path, tensors: dict[str, torch.Tensor], skipped: str, message: str | None
) -> None:
    file = tmp_path / "features.safetensors"
    plain = {"values": torch.ones(4, 2), "rows": torch.arange(4)}
    metadata = {"kind": KEY.model_dump_json(), "skipped": skipped}
    write_tensor_file(file, {**plain, **tensors}, metadata, seal=True)
    if message is None:
        assert len(read_column(file).values) == 4
        assert is_block(file)
        return
    with pytest.raises(ValueError, match=message):
        read_column(file)
    assert is_block(file) == (message == "not all finite")


def test_a_pickle_allocates_nothing_that_it_does_not_hold(tmp_path: Path) -> None:
    file = tmp_path / "gnd.pkl"
    new = np.zeros(1).__reduce__()[0]
    for call, arguments in ((bytes, (10**15,)), (new, (np.ndarray, (10**15,), b"b"))):
        file.write_bytes(pickle.dumps({"imlist": _Call(call, arguments)}))
        with pytest.raises(GtaError, match="it would make"):
            read_ground_truth(file)


def test_a_pickle_with_a_large_index_allocates_little(tmp_path: Path) -> None:
    file = tmp_path / "gnd.pkl"
    file.write_bytes(b"\x80\x02Nr" + (1 << 22).to_bytes(4, "little") + b".")
    tracemalloc.start()
    with pytest.raises(GtaError, match="is no ground truth"):
        read_ground_truth(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


class _Call:
    def __init__(self, call: Any, arguments: tuple[Any, ...]) -> None:
        self.of = call, arguments

    def __reduce__(self) -> Any:
        return self.of
