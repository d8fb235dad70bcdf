"""Tests of the feature cache: correct features, extracted once, under any interruption."""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torchvision import transforms

from gtacli import load_model
from gtacli.data.base import Record
from gtacli.data.spec import load_dataset
from gtacli.errors import GtaError, RunError
from gtacli.images.decode import ImageError
from gtacli.inference.features import FeatureExtractor
from gtacli.models.feature_columns import FeatureColumn
from gtacli.models.loading import LoadedModel
from gtacli.probing.features import cache as module
from gtacli.probing.features.cache import FeatureCache, Features
from gtacli.runtime.devices import choose_compute

Photos = Callable[..., Path]
Model = Callable[..., str]
LAST = (FeatureColumn(2, "cls"),)
CPU = choose_compute("cpu", "fp32")


def records_of(folder: Path, part: str = "train") -> tuple[Record, ...]:
    return load_dataset(str(folder))[part]


def record_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that collects the keys of images read from now on."""
    read: list[str] = []
    before = FeatureExtractor.read

    def spy(self: FeatureExtractor, record: Record) -> Any:
        read.append(record.key)
        return before(self, record)

    monkeypatch.setattr(FeatureExtractor, "read", spy)
    return read


def by_hand(model: LoadedModel, records: tuple[Record, ...]) -> torch.Tensor:
    """Extract features with torchvision on PIL images and timm's forward pass."""
    size = model.image_size[0]
    preprocess = transforms.Compose(
        [
            transforms.Resize(size * 256 // 224, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(model.mean, model.std),
        ]
    )
    images = torch.stack([preprocess(Image.open(r.source)) for r in records])  # type: ignore[arg-type]
    with torch.no_grad():
        network: Any = model.model
        return network.forward_head(network.forward_features(images), pre_logits=True)


@pytest.mark.parametrize("threads", [0, 2, None])
def test_features_equal_those_of_dinos_protocol(
    tmp_path: Path, class_folders: Photos, small_vit: Model, threads: int | None
) -> None:
    records = records_of(class_folders(train=4))
    model = load_model(small_vit())
    cache = FeatureCache(tmp_path / "cache", CPU, batch_size=5, threads=threads)
    found = cache.features(model, records, LAST)
    assert found.keys == tuple(r.key for r in records)
    assert len(set(found.keys)) == 12  # every folder has the same file names
    assert found.labels.tolist() == [r.label for r in records]
    torch.testing.assert_close(found.values, by_hand(model, records), atol=2e-3, rtol=1e-3)


def test_features_in_bf16_do_not_depend_on_the_batch(
    class_folders: Photos, small_vit: Model
) -> None:
    records = records_of(class_folders(train=4))

    def extract(parts: list[tuple[Record, ...]], precision: str) -> torch.Tensor:
        compute = choose_compute("cpu", precision)
        extractor = FeatureExtractor(load_model(small_vit()), LAST, compute, batch_size=4)
        return torch.stack([cast(torch.Tensor, f) for part in parts for f in extractor(part)])

    whole = extract([records], "bf16")
    assert torch.equal(whole, extract([records[:5], records[5:6], records[6:]], "bf16"))
    exact = extract([records], "fp32")
    assert 0 < (whole - exact).norm() < 0.02 * exact.norm()


def test_features_are_extracted_once(
    tmp_path: Path, class_folders: Photos, small_vit: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = records_of(class_folders(train=4))
    read = record_reads(monkeypatch)
    first = FeatureCache(tmp_path / "cache", CPU).features(load_model(small_vit()), records, LAST)
    assert len(read) == 12
    again = FeatureCache(tmp_path / "cache", CPU).features(load_model(small_vit()), records, LAST)
    assert len(read) == 12
    assert torch.equal(first.values, again.values)
    # Another column of the same images is another file; both are then read from disk.
    both = (*LAST, FeatureColumn(0, "mean"))
    cache = FeatureCache(tmp_path / "cache", CPU)
    found = cache.features(load_model(small_vit()), records, both)
    assert len(read) == 24
    assert found.values.shape == (12, 48)
    assert torch.equal(found.select(LAST).values, first.values)
    FeatureCache(tmp_path / "cache", CPU).features(load_model(small_vit()), records, both)
    assert len(read) == 24
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_another_models_file_is_not_used(
    tmp_path: Path, class_folders: Photos, small_vit: Model, caplog: pytest.LogCaptureFixture
) -> None:
    records = records_of(class_folders(train=3))
    cache = FeatureCache(tmp_path / "cache", CPU)
    one = cache.features(load_model(small_vit(1)), records, LAST).values.clone()
    (file,) = (tmp_path / "cache").iterdir()
    other = cache.features(load_model(small_vit(2)), records, LAST).values.clone()
    assert not torch.allclose(one, other)
    (second,) = {*(tmp_path / "cache").iterdir()} - {file}
    second.write_bytes(file.read_bytes())  # under the other's name
    again = FeatureCache(tmp_path / "cache", CPU).features(load_model(small_vit(2)), records, LAST)
    assert torch.equal(again.values, other)
    assert "holds other features" in caplog.text


def test_another_size_and_a_changed_image_are_extracted_again(
    tmp_path: Path, class_folders: Photos, small_vit: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders(train=3)
    cache = FeatureCache(tmp_path / "cache", CPU)
    spec = small_vit()
    before = cache.features(load_model(spec), records_of(folder), LAST).values.clone()
    large = cache.features(load_model(spec, image_size=48), records_of(folder), LAST).values
    assert not torch.allclose(before, large)
    changed = records_of(folder)[4].source
    assert isinstance(changed, Path)
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(changed)
    after = cache.features(load_model(spec), records_of(folder), LAST).values
    differs = (before != after).any(1)
    assert differs.tolist() == [i == 4 for i in range(9)]


@pytest.mark.parametrize("damage", ["cut", "text", "bit"])
def test_a_damaged_file_is_replaced(
    tmp_path: Path, class_folders: Photos, small_vit: Model, damage: str
) -> None:
    records = records_of(class_folders(train=2))
    cache = FeatureCache(tmp_path / "cache", CPU)
    before = cache.features(load_model(small_vit()), records, LAST).values.clone()
    (file,) = (tmp_path / "cache").iterdir()
    data = file.read_bytes()
    file.unlink()  # the mapped file must not be truncated
    place = len(data) - 60
    flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    damaged = {"cut": data[:-40], "text": b"nothing of the kind", "bit": flipped}
    file.write_bytes(damaged[damage])
    assert torch.equal(cache.features(load_model(small_vit()), records, LAST).values, before)


def test_an_interrupted_extraction_resumes_after_the_last_block(
    tmp_path: Path, class_folders: Photos, small_vit: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCKS", 4)  # 15 images: three blocks of four, one of three
    records = records_of(class_folders(train=5))
    done = 0

    class Progress:
        def __enter__(self) -> Callable[[int], object]:
            return self.advance

        def __exit__(self, *error: object) -> None: ...

        def advance(self, images: int) -> None:
            nonlocal done
            done += images
            if done == 10:
                raise KeyboardInterrupt

    spec = small_vit()
    cut = FeatureCache(tmp_path / "cache", CPU, threads=0, progress=lambda n: Progress())
    with pytest.raises(KeyboardInterrupt):
        cut.features(load_model(spec), records, LAST)
    read = record_reads(monkeypatch)
    found = FeatureCache(tmp_path / "cache", CPU).features(load_model(spec), records, LAST)
    assert len(read) == 15 - 8
    expected = FeatureCache(tmp_path / "expected", CPU).features(load_model(spec), records, LAST)
    assert torch.equal(found.values, expected.values)
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_unreadable_images_are_skipped_and_stored_as_such(
    tmp_path: Path, class_folders: Photos, small_vit: Model
) -> None:
    folder = class_folders(train=3)
    (folder / "train/green/1.png").write_bytes(b"no image")
    records = records_of(folder)
    cache = FeatureCache(tmp_path / "cache", CPU)
    for _ in range(2):
        found = cache.features(load_model(small_vit()), records, LAST)
        assert len(found) == len(found.values) == len(found.labels) == 8
        assert [*found.skipped] == ["train/green/1.png"]
        assert "not an image" in found.skipped["train/green/1.png"]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    (file,) = (tmp_path / "cache").iterdir()
    with safe_open(file, "pt") as stored:  # without our code
        assert stored.get_tensor("rows").tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
        assert torch.equal(stored.get_tensor("labels"), found.labels)
        keys = bytes(stored.get_tensor("keys").tolist()).decode().split("\0")[:-1]
        assert keys == [*found.keys]
        assert json.loads(stored.metadata()["kind"])["pool"] == "cls"


def test_an_image_that_is_readable_again_is_extracted(
    tmp_path: Path, class_folders: Photos, small_vit: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a disk error or missing permissions; the file is unchanged."""
    records = records_of(class_folders(train=2))
    before = FeatureExtractor.read

    def read(self: FeatureExtractor, record: Record) -> Any:
        if record is records[3]:
            raise ImageError("no answer")
        return before(self, record)

    with monkeypatch.context() as closed:
        closed.setattr(FeatureExtractor, "read", read)
        cache = FeatureCache(tmp_path / "cache", CPU)
        assert [*cache.features(load_model(small_vit()), records, LAST).skipped] == [records[3].key]
    found = FeatureCache(tmp_path / "cache", CPU).features(load_model(small_vit()), records, LAST)
    assert not found.skipped
    expected = FeatureCache(tmp_path / "expected", CPU).features(
        load_model(small_vit()), records, LAST
    )
    assert torch.equal(found.values, expected.values)


def test_columns_extracted_at_different_times_are_intersected(
    tmp_path: Path, class_folders: Photos, small_vit: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = records_of(class_folders(train=2))
    cache = FeatureCache(tmp_path / "cache", CPU)
    before = cache.features(load_model(small_vit()), records, LAST).values.clone()

    def fail(self: FeatureExtractor, record: Record) -> Any:
        if record is records[3]:
            raise ImageError("no answer")
        return read(self, record)

    read = FeatureExtractor.read
    monkeypatch.setattr(FeatureExtractor, "read", fail)
    monkeypatch.setattr(module, "_is_readable", lambda record: False)
    both = (*LAST, FeatureColumn(0, "mean"))
    found = cache.features(load_model(small_vit()), records, both)
    assert [*found.skipped] == [records[3].key]
    assert len(found) == len(found.labels) == len(found.values) == 5
    assert torch.equal(found.select(LAST).values, before[[0, 1, 2, 4, 5]])


def test_a_changed_image_of_equal_size_in_a_shard_is_detected(
    tmp_path: Path, small_vit: Model
) -> None:
    def shard(seed: int) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for i in range(3):
                pixels = np.random.default_rng((seed, i)).integers(0, 255, (36, 36, 3), np.uint8)
                data = BytesIO()
                Image.fromarray(pixels).save(data, "BMP")  # all of one size
                for name, content in ((f"{i}.bmp", data.getvalue()), (f"{i}.cls", b"%d" % (i % 2))):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))

    found = []
    for seed in (0, 1):
        shard(seed)
        records = load_dataset(f"wds/{tmp_path}/a.tar")["train"]
        cache = FeatureCache(tmp_path / "cache", CPU)
        found.append(cache.features(load_model(small_vit()), records, LAST).values.clone())
    assert not torch.allclose(*found)


def test_two_commands_extract_the_same_features_once(
    tmp_path: Path, class_folders: Photos, small_vit: Model, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    records = records_of(class_folders(train=2))
    model, other = load_model(small_vit()), load_model(small_vit())
    expected = FeatureCache(tmp_path / "alone", CPU).features(model, records, LAST).values
    found = {}

    read = record_reads(monkeypatch)

    def second() -> None:
        cache = FeatureCache(tmp_path / "cache", CPU)
        found["second"] = cache.features(other, records, LAST).values

    thread = threading.Thread(target=second)

    class SecondCommand:
        """While the first is running, the second waits for it."""

        def __enter__(self) -> Callable[[int], object]:
            return self.advance

        def __exit__(self, *error: object) -> None: ...

        done = 0

        def advance(self, images: int) -> None:
            self.done += images
            if self.done == 3:
                thread.start()
                thread.join(0.5)
                assert thread.is_alive()

    cache = FeatureCache(tmp_path / "cache", CPU, threads=0, progress=lambda n: SecondCommand())
    with caplog.at_level("INFO"):
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.1)
        found["first"] = cache.features(model, records, LAST).values
        thread.join()
    assert len(read) == len(records)
    assert caplog.text.count("waiting for the same features: ") == 1
    assert "is in use by gta probe (process" in caplog.text
    assert torch.equal(found["first"], expected)
    assert torch.equal(found["second"], expected)
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_blocks_of_a_whole_file_are_removed(
    tmp_path: Path, class_folders: Photos, small_vit: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is killed after merging them leaves some."""
    records, model = records_of(class_folders(train=2)), load_model(small_vit())
    cache = FeatureCache(tmp_path / "cache", CPU)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *given, **named: None)
        cache.features(model, records, LAST)
    assert len([*(tmp_path / "cache").iterdir()]) == 2
    FeatureCache(tmp_path / "cache", CPU).features(model, records, LAST)
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_the_lock_of_a_command_that_was_killed_at_its_end_is_removed(
    tmp_path: Path, class_folders: Photos, small_vit: Model
) -> None:
    records, model = records_of(class_folders(train=2)), load_model(small_vit())
    cache = FeatureCache(tmp_path / "cache", CPU)
    cache.features(model, records, LAST)
    (file,) = (tmp_path / "cache").iterdir()
    (tmp_path / "cache" / f".gta-lock-{file.stem}").touch()
    cache.features(model, records, LAST)
    assert [*(tmp_path / "cache").iterdir()] == [file]


def test_no_readable_image_is_an_error(
    tmp_path: Path, class_folders: Photos, small_vit: Model
) -> None:
    folder = class_folders(train=1)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(GtaError, match="no image can be read: cannot read"):
        FeatureCache(tmp_path / "cache", CPU).features(
            load_model(small_vit()), records_of(folder), LAST
        )


def test_features_that_are_not_finite_are_not_cached(
    tmp_path: Path, class_folders: Photos, small_vit: Model
) -> None:
    records = records_of(class_folders(train=1))
    model = load_model(small_vit())
    cast(Any, model.model).blocks[1].mlp.fc1.weight.data.fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        FeatureCache(tmp_path / "cache", CPU).features(model, records, LAST)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_columns_are_concatenated() -> None:
    a, b = torch.ones(2, 3), torch.zeros(2, 3)
    columns = {FeatureColumn(0, "cls"): a, FeatureColumn(1, "cls"): b}
    both = Features(columns, torch.tensor([0, 1]), ("x", "y"), {})
    assert both.values.tolist() == [[1, 1, 1, 0, 0, 0]] * 2
    assert both.select([FeatureColumn(1, "cls")]).values is b
