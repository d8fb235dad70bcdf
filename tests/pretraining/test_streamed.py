"""Tests of pre-training on shards as a stream: resuming, processes, maps, invalid input."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import gtacli.training.loop as loop
from gtacli.config.pretrain import PretrainConfig
from gtacli.data import load_dataset, stream_loader
from gtacli.data.loader import Batch
from gtacli.discovery.maps.digests import digest, stack
from gtacli.errors import GtaError, Interrupted
from gtacli.images.decode import read_bytes
from gtacli.pretraining import map_source
from gtacli.pretraining.map_source import CachedMaps, StreamedMaps
from gtacli.pretraining.run import pretrain
from gtacli.pretraining.task import PretrainTask
from gtacli.runtime import remote
from gtacli.runtime.distribution import ALONE
from gtacli.runtime.state_file import read_state_file
from gtacli.training.batch_parts import Trial
from tests.shards import write_parquet, write_tar
from tests.web import Web

Make = Callable[..., PretrainConfig]
SHARDS = 6


@pytest.fixture
def shards(tiny_data: Path, tmp_path: Path) -> Path:
    """Six shards with five images each, those of `tiny_data`."""
    records = [record for _, record in load_dataset(str(tiny_data)).records()]
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(SHARDS):
        own = records[5 * number : 5 * number + 5]
        write_tar(
            folder / f"{number}.tar", {f"{i}.png": read_bytes(r.path) for i, r in enumerate(own)}
        )
    return folder


@pytest.fixture
def streamed(config: Make, shards: Path) -> Make:
    """Return a function that creates the config of two epochs of four batches of a stream."""

    def make(**changes: Any) -> PretrainConfig:
        values = {"data": f"wds/{shards}/{{0..{SHARDS - 1}}}.tar", "epoch_images": 18}
        return config(**{**values, "batch_size": 4, **changes})

    return make


def rows(run: Path) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in read]


def assert_same(a: Path, b: Path) -> None:
    for name in ("model", "decoder"):
        one, other = (load_file(run / f"{name}.safetensors") for run in (a, b))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one)
    assert rows(a) == rows(b)


def test_files_of_a_run(
    streamed: Make, maps: Path, recorder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    summary = pretrain(streamed(maps=maps, knn_every=1), recorder)
    run = tmp_path / "run"
    first, last = rows(run)
    assert last["train_loss"] < first["train_loss"]
    assert first["knn_top1"] is None
    assert (summary["n_train"], summary["n_val"], summary["knn_top1"]) == (16, 0, None)
    assert "skipped" not in summary
    record = json.loads((run / "run.json").read_text())
    assert record["data"].keys() == {"name", "fingerprint"}
    assert record["config"]["epoch_images"] == 18
    assert record["resolved"] == {"lanes": 2}
    assert json.loads((run / "split.json").read_text())["shards"] == SHARDS
    assert {Image.open(run / f"previews/epoch-000{n}.png").size for n in (1, 2)}
    assert "`knn_every` has no effect" in caplog.text
    assert " % of the images looked up so far have no map in " in caplog.text


def test_an_epoch_has_the_next_images(streamed: Make, recorder: Any, tmp_path: Path) -> None:
    """Two epochs are another run's one of twice as many images, but for the views and masks."""
    seen: list[list[str]] = []

    def run(**changes: Any) -> list[str]:
        names: list[str] = []
        add = stream_loader._Views.add

        def noted(self: Any, place: int, image: Any, pixels: Any) -> None:
            names.append(image.name)
            add(self, place, image, pixels)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stream_loader._Views, "add", noted)
            pretrain(streamed(previews_every=0, **changes), recorder)
        return names

    seen = [
        run(out=tmp_path / "a", epochs=3, epoch_images=12),
        run(out=tmp_path / "b", epochs=1, epoch_images=36),
    ]
    assert seen[0] == seen[1]
    assert len(set(seen[0][:30])) >= 24  # a pass, but for lanes of unequal length


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        ("wds", (0, 2)),
        pytest.param("parquet", (2, 0), marks=pytest.mark.slow),
        pytest.param("wds", (2, 0), marks=pytest.mark.slow),
        pytest.param("parquet", (0, 2), marks=pytest.mark.slow),
    ],
)
def test_resume_is_bit_equal(
    kind: str,
    workers: tuple[int, int],
    streamed: Make,
    maps: Path,
    shards: Path,
    recorder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of an epoch, with another number of workers."""
    options: dict[str, Any] = {"maps": maps, "repeats": 2, "accumulate": 2, "epoch_images": 26}
    if kind == "parquet":
        for number in range(SHARDS):
            images = [noise(10 * number + i) for i in range(5)]
            write_parquet(tmp_path / f"{number}.parquet", [*images, None])
        options |= {"data": f"parquet/{tmp_path}/*.parquet", "maps": None}
    pretrain(streamed(out=tmp_path / "whole", workers=workers[0], **options), recorder)

    def stop(epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 3):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    recorder.at_step = stop
    with pytest.raises(Interrupted, match="in epoch 2, batch 4"):
        pretrain(streamed(out=tmp_path / "cut", workers=workers[0], **options), recorder)
    recorder.at_step = lambda epoch, batch: None
    torch.manual_seed(99)
    pretrain(PretrainConfig(resume=tmp_path / "cut", workers=workers[1]), recorder)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    if kind == "parquet":  # rows without bytes are named once
        summary = json.loads((tmp_path / "whole/summary.json").read_text())
        assert 1 <= summary["skipped"] <= SHARDS


def noise(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "changes",
    [{}, pytest.param({"shard_model": True}, marks=pytest.mark.slow)],
    ids=["copies", "sharded"],
)
def test_two_processes_train_as_one(
    changes: dict[str, Any],
    streamed: Make,
    maps: Path,
    recorder: Any,
    tmp_path: Path,
    together: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"maps": maps, **changes}
    alone = pretrain(streamed(out=tmp_path / "alone", **changes), recorder)
    results = together(lambda rank: pretrain(streamed(out=tmp_path / "two", **changes), recorder))
    for summary in results:
        assert summary["n_train"] == alone["n_train"]
        assert summary["final_loss"] == pytest.approx(alone["final_loss"], rel=1e-5)
        assert summary["recon_fg"] == pytest.approx(alone["recon_fg"], rel=1e-5)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
    # Where two processes have stopped, one goes on: the places of all lanes are in the state.
    states = (read_state_file(tmp_path / name / "state.pt") for name in ("alone", "two"))
    assert len({state["stream"] for state in states}) == 1


def test_maps_by_digest_are_those_by_path(
    streamed: Make, config: Make, maps: Path, shards: Path, recorder: Any, tmp_path: Path
) -> None:
    """Of the same images in the same order; those of the stream are known by their bytes alone."""
    records = tuple(record for _, record in load_dataset(streamed().data or "").records())
    contents = torch.from_numpy(stack([digest(read_bytes(r.path)) for r in records]).copy())
    crops = torch.rand(len(records), 5)
    batch = Batch(torch.empty(0), torch.empty(0), torch.arange(len(records)), crops, None, contents)
    by_path, _ = CachedMaps(maps, "", records, 1, ALONE).maps(batch)
    by_digest, shown = StreamedMaps(maps, "").maps(batch)
    assert torch.equal(by_path, by_digest)
    assert shown is crops
    assert (by_digest.flatten(1).amax(1) == 0).sum() == 2


def test_a_cache_of_other_images_is_refused(
    streamed: Make, maps: Path, recorder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(map_source, "_TRIED", 8)
    for number in range(SHARDS):
        write_tar(tmp_path / f"shards/{number}.tar", {f"{i}.png": noise(i) for i in range(5)})
    with pytest.raises(GtaError, match=r"maps: .* none of the first 8 images of `data`"):
        pretrain(streamed(maps=maps), recorder)


def test_remote_shards(
    streamed: Make,
    shards: Path,
    recorder: Any,
    tmp_path: Path,
    web: Web,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a copy, through broken connections; without the secrets in what is written."""
    monkeypatch.setattr(remote, "WAITS", (0.0,) * 6)
    for path in shards.iterdir():
        url = f"https://example.org/{path.name}?token=secret"
        web.files[url], web.tags[url] = path.read_bytes(), f'"{path.name}"'
        web.breaks[url] = [3000, 2000]
    far = "wds/https://example.org/{0..5}.tar?token=secret"
    pretrain(streamed(out=tmp_path / "near"), recorder)
    pretrain(streamed(out=tmp_path / "far", data=far), recorder)
    assert_same(tmp_path / "near", tmp_path / "far")
    assert not (tmp_path / "cache/wds").exists()
    for path in (tmp_path / "far").rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes(), path


def test_missing_and_damaged_shards_are_counted(
    streamed: Make, shards: Path, recorder: Any
) -> None:
    (shards / "1.tar").unlink()
    (shards / "3.tar").write_bytes((shards / "3.tar").read_bytes()[:5000])
    write_tar(shards / "4.tar", {"0.png": noise(0), "1.png": b"no image", "2.png": noise(2)})
    summary = pretrain(streamed(epochs=3), recorder)
    assert summary["skipped"] == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_no_image_at_all_is_a_line(
    streamed: Make, shards: Path, recorder: Any, workers: int
) -> None:
    for path in shards.iterdir():
        write_tar(path, {})
    with pytest.raises(GtaError, match="shards in a row have no image that can be read") as error:
        pretrain(streamed(workers=workers), recorder)
    assert "\n" not in str(error.value)


def test_batches_of_a_compiled_run_have_one_shape(
    streamed: Make,
    shards: Path,
    maps: Path,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unreadable images leave no gap in a batch of one shape."""
    monkeypatch.setattr(PretrainTask, "compile", lambda task: None)  # the batches are as compiled
    shapes: list[tuple[int, ...]] = []
    forward = PretrainTask.forward

    def noted(task: Any, batch: Batch) -> Any:
        assert batch.maps is not None
        shapes.append((len(batch.images), len(batch.maps)))
        return forward(task, batch)

    monkeypatch.setattr(PretrainTask, "forward", noted)
    write_tar(shards / "0.tar", {"0.png": noise(0), "1.png": b"no image", "2.png": noise(2)})
    summary = pretrain(streamed(compile=True, maps=maps), recorder)
    assert summary["skipped"] == 1
    assert set(shapes) == {(4, 4)}


def test_dry_run_writes_nothing(streamed: Make, recorder: Any, tmp_path: Path) -> None:
    summary = pretrain(streamed(workers=1), recorder, dry_run=True)
    assert summary["dry_run"] is True
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "demo"}, "epoch_images: demo is read through a list of its images"),
        ({"data": "wds/nowhere"}, "wds/nowhere: no such shard"),
        ({"epoch_images": 3}, "epoch_images: 3 images are less than the 4 of one step"),
        ({"data": "parquet/x", "epoch_images": None}, "data: parquet/x is read as a stream: give"),
    ],
)
def test_invalid_input_is_rejected_before_first_step(
    changes: dict[str, Any], words: str, streamed: Make, recorder: Any, tmp_path: Path
) -> None:
    with pytest.raises(GtaError) as error:
        pretrain(streamed(**changes), recorder)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_cached_stream_is_refused(streamed: Make) -> None:
    with pytest.raises(ValueError, match=r"a stream .* has no end"):
        streamed(cache="ram")


@pytest.fixture
def state(streamed: Make, recorder: Any, tmp_path: Path) -> dict[str, Any]:
    """The state after the first of two epochs, in a run that may go on."""

    def stop(row: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    recorder.at_epoch = stop
    with pytest.raises(Interrupted):
        pretrain(streamed(), recorder)
    recorder.at_epoch = lambda row: None
    return read_state_file(tmp_path / "run/state.pt")


HOSTILE: list[Any] = [
    None, "", "{", "[]", "{}", '{"lanes": []}', '{"lanes": [1]}', '{"lanes": [{}]}', 3,
    {"shard": -1}, {"shard": "x"}, {"shard": 2**70}, {"shard": 2**61}, {"start": -5}, {"start": 7},
    {"taken": 1.5}, {"taken": None}, {"block": "x" * 32}, {"block": "a" * 31},
    {"block": "a" * 32}, {"state": 5}, {"state": "b" * 32}, {"more": 1},
]  # fmt: skip
"""What stands in a state in place of the lanes' places, or in that of the first lane."""


def test_a_hostile_state_is_a_line(state: dict[str, Any], recorder: Any, tmp_path: Path) -> None:
    for change in HOSTILE:
        hostile = {**state, "stream": change}
        if isinstance(change, dict):
            lanes = json.loads(state["stream"])
            lanes["lanes"][0] |= change
            hostile["stream"] = json.dumps(lanes)
        if change is None:
            del hostile["stream"]
        torch.save(hostile, tmp_path / "run/state.pt")
        with pytest.raises(GtaError) as error:
            pretrain(PretrainConfig(resume=tmp_path / "run"), recorder)
        assert error.value.option == "resume", change
        assert "\n" not in str(error.value)


def test_a_changed_shard_is_refused(
    state: dict[str, Any], shards: Path, recorder: Any, tmp_path: Path
) -> None:
    for path in shards.iterdir():
        os.utime(path, ns=(1, 1))
    with pytest.raises(GtaError, match=r"resume: .*\.tar, or a shard after it, is no longer"):
        pretrain(PretrainConfig(resume=tmp_path / "run"), recorder)


def test_other_shards_are_refused(
    shards: Path, recorder: Any, tmp_path: Path, streamed: Make
) -> None:
    """Of a folder, whose names make the fingerprint; a pattern has none but its own."""
    pretrain(streamed(data=f"wds/{shards}", out=tmp_path / "folder", epochs=1), recorder)
    write_tar(shards / "9.tar", {"0.png": noise(0)})
    with pytest.raises(GtaError, match=r"resume: `data` .* has changed since the run began"):
        pretrain(PretrainConfig(resume=tmp_path / "folder"), recorder)


@pytest.mark.parametrize("fits", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_parts_of_a_batch_train_as_the_batch(
    streamed: Make,
    maps: Path,
    recorder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fits: int,
) -> None:
    """The trial steps have no maps to look up."""
    real = Trial._fits
    monkeypatch.setattr(Trial, "_fits", lambda self, size: size <= fits and real(self, size))
    options: dict[str, Any] = {"maps": maps, "gamma": 1.0, "epochs": 1}
    pretrain(streamed(out=tmp_path / "whole", **options), recorder)
    pretrain(streamed(out=tmp_path / "parts", fit_memory=True, **options), recorder)
    one, other = (rows(tmp_path / name)[-1] for name in ("whole", "parts"))
    assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
