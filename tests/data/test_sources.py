"""Tests that every source works with the store, the loader and fine-tuning."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gtacli.cli import main
from gtacli.data import load_dataset
from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.loader import make_loader
from gtacli.data.store import ImageStore

Layout = Callable[[str, Path], str]
TRAIN = TrainTransform((24, 24))


@pytest.mark.parametrize("name", ["pets", "dogs", "cifar10", "mnist", "hfds", "wds", "tables"])
def test_cache_and_workers_change_nothing(name: str, layout: Layout, tmp_path: Path) -> None:
    records = load_dataset(layout(name, tmp_path))["train"]
    assert ImageStore(records, 27).cached  # its size is estimated without decoding

    def batches(cache: str, workers: int = 0) -> list[torch.Tensor]:
        store = ImageStore(records, TRAIN.load_size, cache=cache)  # type: ignore[arg-type]
        options = {"train": True, "seed": 3, "epoch": 1, "workers": workers}
        return [b.images for b in make_loader(store, TRAIN, 5, **options)]  # type: ignore[arg-type]

    first = batches("ram")
    for other in (batches("none"), batches("none", workers=2)):
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("name", "n_val"),
    [
        *((name, 3) for name in ("pets", "hfds", "wds", "tables")),
        *(
            pytest.param(name, 3, marks=pytest.mark.slow)
            for name in ("aircraft", "cars", "dogs", "flowers", "cifar10")
        ),
    ],
)
def test_finetune(name: str, n_val: int, layout: Layout, tiny_model: Path, tmp_path: Path) -> None:
    spec = layout(name, tmp_path / "data")
    words = [
        "finetune", "-m", str(tiny_model), "--data", spec, "--device", "cpu", "--workers", "0",
        "--epochs", "1", "--batch-size", "4", "--sampling-rate", "75", "-q",
        "--hold-out", "20",  # else no class has enough images to hold one out
    ]  # fmt: skip
    keys = []
    for run in ("one", "other"):
        assert main([*words, "-o", str(tmp_path / run)]) == 0
        summary = json.loads((tmp_path / run / "summary.json").read_text())
        split = json.loads((tmp_path / run / "split.json").read_text())
        assert (summary["n_val"], summary["n_test"]) == (n_val, 6)
        assert not summary.get("skipped")
        keys.append([split[part] for part in ("train", "val", "test")])
    assert keys[0] == keys[1]
    known = {record.key for _, record in load_dataset(spec).records()}
    assert {key for part in keys[0] for key in part} <= known


@pytest.mark.parametrize("name", ["cifar10", "hfds", "wds"])
def test_records_can_be_pickled(name: str, layout: Layout, tmp_path: Path) -> None:
    records = load_dataset(layout(name, tmp_path))["train"]
    copies = pickle.loads(pickle.dumps(records))
    for copy, record in zip(copies, records, strict=True):
        assert copy.open().read() == record.open().read()
        assert (copy.key, copy.path.stamp()) == (record.key, record.path.stamp())


def test_unreadable_member_is_reported(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = load_dataset(layout("wds", tmp_path))["train"]
    bad = records[2].path
    with bad.shard.open("r+b") as shard:
        shard.seek(bad.offset)
        shard.write(b"\0" * bad.size)
    store = ImageStore(records, 30, cache="ram")
    store.prepare()
    assert list(store.skipped) == [records[2].key]
    assert "train-000.tar:Bengal_0.jpg" in caplog.text
